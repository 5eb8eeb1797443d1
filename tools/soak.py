"""Call models of every kind from many threads at once, and count wrong answers.

`python tools/soak.py --seconds 60 --threads 8`: tiny models, or those that are named, are shared by
all threads, tasks known and unknown, and some have caches so small that threads evict each other's
weights. Every answer is compared with that of one thread alone. Exits with 1 where one is wrong.
What is counted as a call is a question; that of known tasks calls the model three times.
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
"""Relative: other kernels round otherwise by 1e-6, another task's logits are 0.1 away."""
FINE = "fine"
Asked = tuple[str, Question, Any, Answer]
"""A question of a shared model, and what one thread alone is answered."""


def main() -> None:
    """Soak for the time or the number of calls on the command line."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("models", nargs="*", type=Path, help="exported models (tiny ones, made now)")
    made.add_argument("--threads", type=positive, default=8)
    made.add_argument("--seconds", type=positive, default=60, help="stop after so many (60)")
    made.add_argument("--calls", type=positive, help="stop after so many questions instead")
    arguments = made.parse_args()
    with TemporaryDirectory() as folder:
        models = arguments.models or make_tiny(Path(folder))
        asked = [each for model in models for each in _asked(model)]
        start, calls = time.monotonic(), arguments.calls
        end = math.inf if calls else start + arguments.seconds
        turns = iter(range(calls)) if calls else count()  # shared: `next` is atomic
        with ThreadPoolExecutor(arguments.threads) as pool:
            work = partial(_work, asked, turns, end)
            found = sum(pool.map(work, range(arguments.threads)), Counter[str]())
    seconds, total = time.monotonic() - start, found.total()
    del found[FINE]  # the others are wrong
    for name, times in found.most_common(10):
        print(f"{times} times {name}")
    print(f"{total} calls, {found.total()} wrong, {arguments.threads} threads, {seconds:.1f} s")
    sys.exit(1 if found else 0)


def make_tiny(folder: Path) -> list[Path]:
    """Tiny models of every kind."""
    from tools.benchmarks.models import make_models

    make_models(folder, "cpu", model="mlp-7-9", inputs=5, tasks=(6,))
    return sorted(folder.glob("*.onnx"))


def _work(asked: list[Asked], turns: Iterator[int], end: float, seed: int) -> Counter[str]:
    """What one thread finds when it asks at random, and how often."""
    chance, found = random.Random(seed), Counter[str]()  # noqa: S311 - no secret
    for _ in takewhile(lambda _: time.monotonic() < end, turns):
        name, question, model, (numbers, words) = chance.choice(asked)
        try:
            got, its_words = question(model)
            fine = its_words == words and difference(numbers, got) <= TOLERANCE
            found[FINE if fine else f"{name}: a wrong answer"] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
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
    """Logits with the task unknown, and the task of each row."""
    found = model.predict(images(model.info, rows), per_image=per_image)
    return found.logits, " ".join(task.name for task in found.tasks)


if __name__ == "__main__":
    main()
