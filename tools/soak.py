"""Call models from many threads at once and count wrong answers.

`python tools/soak.py --seconds 60 --threads 8`: all threads share tiny models of every kind, or the
given ones; some caches are so small that threads evict each other's weights. Answers are compared
with those of a single thread. Exits with 1 if any is wrong. A call is one question, which may call
the model several times.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from supsup_runtime.console import positive
from supsup_runtime.model.model import Model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.benchmarks.questions import Answer, Question, difference, images, opened, questions

TOLERANCE = 1e-4
"""Relative. Kernels round differently by 1e-6; logits of another task differ by 0.1."""
FINE = "fine"
Asked = tuple[str, Question, Any, Answer]
"""Name, question, shared model, and the answer to a single thread."""


def main() -> None:
    """Run the command."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument(
        "models", nargs="*", type=Path, help="exported models (default: makes tiny ones)"
    )
    made.add_argument("--threads", type=positive, default=8)
    made.add_argument("--seconds", type=positive, default=60, help="time to run (default: 60)")
    made.add_argument("--calls", type=positive, help="number of questions to ask instead")
    arguments = made.parse_args()
    with TemporaryDirectory() as folder:
        models = arguments.models or make_tiny(Path(folder))
        asked = [each for model in models for each in _asked(model)]
        start, calls = time.monotonic(), arguments.calls
        end = math.inf if calls else start + arguments.seconds
        turns = iter(range(calls)) if calls else count()  # shared, because `next` is atomic
        with ThreadPoolExecutor(arguments.threads) as pool:
            work = partial(_work, asked, turns, end)
            found = sum(pool.map(work, range(arguments.threads)), Counter[str]())
    seconds, total = time.monotonic() - start, found.total()
    del found[FINE]  # leaves the wrong ones
    for name, times in found.most_common(10):
        print(f"{times} times {name}")
    print(f"{total} calls, {found.total()} wrong, {arguments.threads} threads, {seconds:.1f} s")
    sys.exit(1 if found else 0)


def make_tiny(folder: Path) -> list[Path]:
    """Make tiny models of every kind."""
    from tools.benchmarks.models import make_models

    make_models(folder, "cpu", model="mlp-7-9", inputs=5, tasks=(6,))
    return sorted(folder.glob("*.onnx"))


def _work(asked: list[Asked], turns: Iterator[int], end: float, seed: int) -> Counter[str]:
    chance, found = random.Random(seed), Counter[str]()  # noqa: S311 - not a secret
    for _ in takewhile(lambda _: time.monotonic() < end, turns):
        name, question, model, (numbers, words) = chance.choice(asked)
        try:
            got, its_words = question(model)
            fine = its_words == words and difference(numbers, got) <= TOLERANCE
            found[FINE if fine else f"{name}: a wrong answer"] += 1
        except Exception as error:  # noqa: BLE001 - every error is counted
            found[f"{name}: {type(error).__name__}: {error}"] += 1
    return found


def _asked(path: Path) -> Iterator[Asked]:
    alone = opened(path)
    shared, network, own = [opened(path)], alone.info.network, questions(alone.info)
    if isinstance(alone, Model):
        two_tasks = 2 * 4 * (network.num_masked + network.num_state)
        shared.append(opened(path, cache_bytes=two_tasks))
        own |= {f"predict, {rows} rows": partial(_predicted, rows=rows) for rows in (1, 3)}
        own["predict, per image"] = partial(_predicted, rows=3, per_image=True)
    for name, question in own.items():
        answer = question(alone)
        for model in shared:
            yield f"{path.name}, {name}", question, model, answer


def _predicted(model: Model, *, rows: int, per_image: bool = False) -> Answer:
    found = model.predict(images(model.info, rows), per_image=per_image)
    return found.logits, " ".join(task.name for task in found.tasks)


if __name__ == "__main__":
    main()
