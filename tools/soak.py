"""Call models of every kind from many threads at once, and count wrong answers.

`python tools/soak.py --seconds 60 --threads 8`: tiny models with masks, of known tasks, that always
infer, with state, and with a Hopfield store, all of them shared by all threads; tasks known and
unknown, and caches so small that threads evict each other's weights. Every answer is compared with
that of one thread alone. Exits with 1 where one is wrong or missing. Models of your own are soaked
in place of the tiny ones where they are named.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np

import supsup_runtime as supsup
from supsup_runtime.arrays import Array, Images
from supsup_runtime.console import positive
from supsup_runtime.model.protobuf import read_metadata

TASKS = 6
TOLERANCE = 1e-4
"""Of logits: other kernels round otherwise by 1e-6, another task's logits are 0.1 away."""
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "portable": {"target": "portable"},
    "known": {"outputs": ("logits",)},
    "parameters": {"outputs": ("logits", "parameters")},
    "infer": {"outputs": ("task", "logits")},
}
"""Options of the export by kind of model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A call of a shared model, and what one thread alone is answered."""

    name: str
    ask: Callable[[], Array]
    answer: Array


def main() -> None:
    """Soak for the time or the number of calls on the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("models", nargs="*", type=Path, help="exported models (tiny ones, made now)")
    made.add_argument("--threads", type=positive, default=8)
    made.add_argument("--seconds", type=positive, default=60, help="stop after so many (60)")
    made.add_argument("--calls", type=positive, help="stop after so many calls instead")
    arguments = made.parse_args()
    with TemporaryDirectory() as folder:
        models = arguments.models or make_models(Path(folder))
        questions = [question for model in models for question in _questions(model)]
        start = time.monotonic()
        calls, wrong = soak(questions, arguments.threads, arguments.seconds, arguments.calls)
    for name, times in wrong.most_common(10):
        print(f"{times} times {name}")
    seconds = time.monotonic() - start
    print(f"{calls} calls, {wrong.total()} wrong, {arguments.threads} threads, {seconds:.1f} s")
    sys.exit(1 if wrong else 0)


def soak(
    questions: list[Question], threads: int, seconds: float, calls: int | None
) -> tuple[int, Counter[str]]:
    """Ask questions at random from many threads; the calls made, and what went wrong how often."""
    numbers = count()  # `next` is atomic
    end = time.monotonic() + seconds
    wrong: list[str] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - which question comes next is no secret
        while next(numbers) < calls if calls else next(numbers) >= 0 and time.monotonic() < end:
            question = chance.choice(questions)
            try:
                got = question.ask()
                fine = np.abs(got - question.answer).max() <= TOLERANCE
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                wrong.append(f"{question.name}: {type(error).__name__}: {error}")
            else:
                if not fine:
                    wrong.append(f"{question.name}: a wrong answer")

    workers = [Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return next(numbers) - threads, Counter(wrong)


def make_models(folder: Path) -> list[Path]:
    """Tiny models of every kind, of random masks."""
    from supsup_export.bank_model.compose import Request
    from supsup_export.exporter import export, export_recovery
    from supsup_runtime.hopfield.file import encode_into

    bank, cnn = _bank(folder / "mlp", "mlp-7-9", (5,)), _bank(folder / "cnn", "cnn", (1, 8, 8))
    requests = {folder / f"{kind}.onnx": Request(**KINDS[kind]) for kind in KINDS}
    made = [export(bank, path, request=request).path for path, request in requests.items()]
    made.append(export(cnn, folder / "state.onnx").path)
    units = _bank(folder / "units", "bnnet-65-33", (30,), outputs=5)
    encode_into(units, units.task_names[:2], rule="storkey", dtype="float32")
    made.append(export_recovery(units, folder / "recover.onnx").path)
    return made


def _bank(
    path: Path, model: str, input_shape: tuple[int, ...], outputs: int = 6
) -> supsup.MaskBank:
    """A bank of random masks and statistics."""
    from supsup_train.networks.create_bank import create_bank
    from supsup_train.networks.models import make_model

    module = make_model(model, input_shape=input_shape, outputs=outputs)
    bank = create_bank(path, module, input_shape=input_shape, real_outputs=outputs)
    for task in range(TASKS):
        rng = np.random.default_rng(task)
        masks = {p.name: rng.random(p.shape) < 0.5 for p in bank.network.parameters}
        state = {}
        for tensor in bank.network.state:  # positive, and no blend, as training writes them
            value = rng.uniform(0.5, 2, tensor.shape).astype(np.float32)
            state[tensor.name] = value * (not tensor.name.endswith(".blend"))
        bank.add(supsup.make_task(f"task-{task}", masks, state=state))
    return bank


def _questions(path: Path) -> Iterator[Question]:
    recovers = read_metadata(path)["org.supsup.mode"] == "recover"
    yield from _of_store(path) if recovers else _of_masks(path)


def _of_masks(path: Path) -> Iterator[Question]:
    alone, shared = supsup.load(path), supsup.load(path)
    network = shared.info.network
    two_tasks = 2 * 4 * (network.num_masked + network.num_state)
    small = supsup.load(path, cache_bytes=two_tasks)
    knows = shared.info.mode != "infer"
    for rows in (1, 3):
        x = _images(rows, network.input_shape)
        asked = product((shared, small), range(min(TASKS, shared.num_tasks) if knows else 0))
        for model, task in asked:
            yield Question(
                name=f"{path.name}, task known",
                ask=partial(_predicted, model, x, task),
                answer=_predicted(alone, x, task),
            )
        for per_image in (False, True):
            yield Question(
                name=f"{path.name}, task unknown, per_image={per_image}",
                ask=partial(_predicted, shared, x, None, per_image=per_image),
                answer=_predicted(alone, x, None, per_image=per_image),
            )


def _predicted(
    model: supsup.Model, x: Images, task: int | None, *, per_image: bool = False
) -> Array:
    """Logits, and the task of each row: ``(batch, outputs + 1)``."""
    found = model.predict(x, task, per_image=per_image)
    return np.column_stack([found.logits, [each.index for each in found.tasks]])


def _of_store(path: Path) -> Iterator[Question]:
    alone, shared = supsup.load_hopfield(path), supsup.load_hopfield(path)
    network = shared.info.network
    masks = np.random.default_rng(1).random((TASKS, network.num_masked)) < 0.5
    batches = [_images(4, network.input_shape) for _ in range(2)]
    for mask in masks:
        yield Question(
            name=f"{path.name}, logits",
            ask=partial(shared.logits, batches[0], mask),
            answer=alone.logits(batches[0], mask),
        )
    settled = [partial(_settled, model, masks[0]) for model in (shared, alone)]
    yield Question(name=f"{path.name}, settle", ask=settled[0], answer=settled[1]())
    found = [partial(_recovered, model, batches) for model in (shared, alone)]
    yield Question(name=f"{path.name}, recover", ask=found[0], answer=found[1]())


def _settled(model: supsup.HopfieldModel, mask: Array) -> Array:
    return model.settle(mask)[0].astype(np.float32)


def _recovered(model: supsup.HopfieldModel, batches: list[Images]) -> Array:
    found = model.recover(batches)
    return np.append(found.trace.energy, found.mask)


def _images(rows: int, input_shape: tuple[int, ...]) -> Images:
    return np.random.default_rng(rows).standard_normal((rows, *input_shape)).astype(np.float32)


if __name__ == "__main__":
    main()
