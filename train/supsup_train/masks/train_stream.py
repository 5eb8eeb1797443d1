"""Learn the masks of a stream of tasks into a bank, one task after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.streams import Stream
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.train_task import Progress, train_task
from supsup_train.masks.transfer import Transfer
from supsup_train.resume import Report, check_resumed, learn_missing, origin_of, unheard

__all__ = ["train_stream"]


def train_stream(
    bank: MaskBank,
    module: nn.Module,
    stream: Stream,
    *,
    recipe: Recipe | None = None,
    report: Report = unheard,
    progress: Callable[[str], Progress | None] = unheard,
) -> None:
    """Learn the tasks of a stream that a bank does not have, and add each once it is finished.

    Args:
        bank: Of the same module and stream, from `create_bank` or `open_bank`.
        module: The network; its own weights are neither used nor changed.
        stream: Where the tasks come from.
        recipe: How to learn.
        report: See `Report`; with ``density``, that of the task's masks.
        progress: Makes the callback of a task's steps, by the task's name.

    Raises:
        InputError: If the bank's tasks were learned otherwise, or as `train_task` and `Transfer`.
    """
    recipe = recipe or Recipe()
    origin = origin_of(stream)
    check_resumed(bank, stream.task_names, recipe, origin)
    transfer = Transfer(bank, recipe)

    def learn(index: int) -> dict[str, Any]:
        data = stream.task(index)
        task = train_task(
            bank,
            module,
            data,
            recipe=recipe,
            record={**origin, "stream_index": index},
            progress=progress(data.name),
            transfer=transfer,
        )
        bank.add(task)
        transfer.tidy()
        return {
            "accuracy": task.training["accuracy"],
            "density": round(task.density(bank.network), 4),
            "index": bank.index(task.name),
        }

    learn_missing(stream, bank, learn, report)
