"""Export, ask and call models: on an emulated core, and for comparison on the host.

Reads cases as JSON from stdin. With a folder to export into, it prints a line of JSON for each;
without, it calls the first between marks, for the count of instructions. It imports no torch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tools.benchmarks.questions import Answer, opened, questions

from supsup_runtime.arrays import Array
from supsup_runtime.model.session import open_session

CALLS = 5
Case = dict[str, Any]
"""``bank`` and ``model``, names; ``words`` of supsup-export; ``file``, its output; ``inputs``, a
``.npy`` file or None; ``checked``: whether cores export, too."""


def exported(words: list[str], file: Path) -> str:
    """Run supsup-export; return its error, or an empty text."""
    from supsup_commands import main

    sys.argv, errors = ["supsup-export", *words, str(file)], StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(errors):
        try:
            main()
        except SystemExit as done:
            return errors.getvalue().strip() if done.code else ""
    raise AssertionError  # a command exits


def answers(case: Case) -> dict[str, Answer]:
    """Ask a model every question that suits it."""
    file = Path(case["file"])
    if "--task" in case["words"]:
        logits = _plain(file)(np.load(case["inputs"]))
        return {"logits": (logits, str(logits.argmax(axis=1)))}
    model = opened(file, threads=1)
    found = {name: ask(model) for name, ask in questions(model.info).items()}
    if case["inputs"] and model.info.mode == "full":
        told = model.predict(np.load(case["inputs"]), per_image=True)
        found["images"] = told.logits, f"{[task.name for task in told.tasks]} {told.labels}"
    return found


def _plain(file: Path) -> Callable[[Array], Array]:
    session = open_session(file, place=str(file), threads=1)
    return lambda x: session.run(["logits"], {"x": x})[0]


def _call(case: Case) -> NoReturn:
    """Call a model with one input, the task unknown: to warm up, then between marks.

    A mark is a process that ends, at which QEMU's plugin prints its count. The second of three
    shows what a mark takes. The second call in a row that infers a task caches it.
    """
    file, x = Path(case["file"]), np.load(case["inputs"])[:1]
    plain = "--task" in case["words"]
    run = _plain(file) if plain else partial(opened(file, threads=1).predict, method="one-shot")
    for times in (3, 0, CALLS):
        for _ in range(times):
            run(x)
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    os._exit(0)


def _answered(case: Case, folder: Path) -> dict[str, Any]:
    file, error, same = folder / Path(case["file"]).name, "", True
    if case["checked"]:
        error = exported(case["words"], file)
        same = bool(error) or file.read_bytes() == Path(case["file"]).read_bytes()
    found = {name: (array.tolist(), text) for name, (array, text) in answers(case).items()}
    return {"error": error, "same": same, "answers": found}


if __name__ == "__main__":
    given = sys.argv[1:]  # an export has its own
    for each in json.load(sys.stdin):
        print(json.dumps(_answered(each, Path(*given)) if given else _call(each)), flush=True)
