"""Scenario NNs on a stream of tasks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from supsup_runtime.bank.fields import is_number
from supsup_runtime.data.own import Tasks
from supsup_train.masks.learning import task_seed
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.train_task import batch_rows
from supsup_train.nns.learner import Decision, NnsLearner
from supsup_train.reporting import begin_log, open_log, progress_bars, read_record


def unlabelled_batches(
    stream: Tasks, recipe: Recipe, *, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of all tasks from `start` on; the recipe has steps, batch size and seed.

    Inputs are ``float32 (batch, *input_shape)``, labels ``int64 (batch,)``.
    """
    for index in range(start // recipe.steps, stream.num_tasks):
        data = stream.task(index)
        x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
        generator = torch.Generator().manual_seed(task_seed(recipe.seed, data.name))
        skipped = max(0, start - index * recipe.steps)
        for step, rows in enumerate(batch_rows(len(x), recipe, generator)):
            if step >= skipped:
                yield x[rows], y[rows]


def learn_stream(
    learner: NnsLearner, stream: Tasks, recipe: Recipe, log: Path, *, quiet: bool, own: bool
) -> None:
    """Learn a stream from the learner's position; print and log its decisions.

    `log` gets one JSON line per decision; `own` says whether it is the bank's.
    """
    total = stream.num_tasks * recipe.steps
    kinds, before = Counter[str](), ""
    bars = progress_bars(quiet=quiet)
    console = bars.console
    if learner.batches:
        console.print(f"resuming from batch {learner.batches}", highlight=False)
    begin_log(log, lambda line: not _is_later(line, learner.batches), own=own)
    with bars:
        bar = bars.add_task("batches", total=total, completed=learner.batches, loss="")
        for x, y in unlabelled_batches(stream, recipe, start=learner.batches):
            decision = learner.learn(x, y)
            bars.advance(bar)
            if decision is not None:
                kinds[decision.kind] += 1
                with open_log(log, own=own) as file:
                    file.write((json.dumps(asdict(decision), sort_keys=True) + "\n").encode())
                if decision.kind != "same" and not (decision.kind == before == "full"):
                    console.print(_to_text(decision), highlight=False)
                before = decision.kind
    learner.checkpoint()
    passed = f"; no mask left at {kinds['full']} inferences" if kinds["full"] else ""
    console.print(f"{learner.num_tasks} masks allocated{passed}", highlight=False)


def _is_later(line: bytes, batches: int) -> bool:
    found = read_record(line)
    batch = found.get("batch") if isinstance(found, dict) and "certainty" in found else None
    return is_number(batch) and batch >= batches


def _to_text(decision: Decision) -> str:
    certainty = f"certainty {decision.certainty or 0:.3f}, threshold {decision.threshold:g}"
    text = {
        "first": f"first task, {decision.task}",
        "new": f"new task, {decision.task} allocated: {certainty}",
        "known": f"{decision.task} again: {certainty}",
        "full": f"new task, but no mask is left; its batches are skipped: {certainty}",
    }[decision.kind]
    return f"batch {decision.batch}: {text}"
