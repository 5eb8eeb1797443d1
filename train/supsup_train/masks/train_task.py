"""Learn the mask of one task: scores, a rule, the fixed weights, and an optimiser.

Nothing here depends on another task, so tasks can be learned in any order and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import TaskMasks, make_task
from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import InputError
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.state import Learning, begin, initial_scores, task_seed
from supsup_train.masks.transfer import Transfer

__all__ = ["Progress", "batch_rows", "check_data", "train_task"]

Progress = Callable[[int, float], None]
"""Called after every step with the step's number and the batch's loss."""


def train_task(
    bank: MaskBank,
    module: nn.Module,
    data: TaskData,
    *,
    recipe: Recipe | None = None,
    record: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    transfer: Transfer | None = None,
) -> TaskMasks:
    """Learn one task's masks and state; the bank is not changed, add the result with `bank.add`.

    Args:
        bank: Made with `create_bank` of the same module.
        module: The network; its own weights are neither used nor changed.
        data: The task's name, label names and arrays: inputs ``float32 (images, *input_shape)``,
            labels ``int64 (images,)`` in ``[0, real_outputs)``. The test part may be empty;
            otherwise accuracy and mean entropy on it go into the task's training record.
        recipe: How to learn.
        record: Further JSON values for the training record.
        progress: Called after every step with the step's number and the batch's loss.
        transfer: Of the bank and recipe, where the recipe transfers. It counts a task from when the
            bank has it, so add each before the next one is learned.

    Raises:
        InputError: If the data or the module do not fit the bank's network, or the loss stops
            being finite.
    """
    recipe = recipe or Recipe()
    check_data(data.name, data.train_x, data.train_y, bank.network)
    if len(data.test_x):
        check_data(f"{data.name} (test)", data.test_x, data.test_y, bank.network)
    generator = torch.Generator().manual_seed(task_seed(recipe.seed, data.name))
    if recipe.transfer != "none" and transfer is None:
        raise InputError(
            f"task {data.name!r}: the recipe transfers {recipe.transfer}; give transfer=Transfer("
            "bank, recipe), the same one for every task"
        )
    if transfer is not None and transfer.kind != recipe.transfer:
        raise InputError(
            f"task {data.name!r}: the Transfer was made for transfer {transfer.kind!r}, the recipe "
            f"has {recipe.transfer!r}; make it with the same recipe"
        )
    scores = initial_scores(bank.network, generator, recipe.score_init)
    if transfer is not None:
        scores = transfer.start(scores)
    learning = begin(bank.network, module, recipe, scores)
    _fit(learning, data, recipe, generator, progress)
    with torch.no_grad():
        masks = learning.masks()
    training: dict[str, Any] = {"recipe": asdict(recipe), **(record or {})}
    if len(data.test_x):
        training |= _tested(learning, bank.network.real_outputs, data)
    task = make_task(
        data.name,
        {name: mask.bool().numpy() for name, mask in masks.items()},
        state={name: value.detach().numpy() for name, value in learning.state.items()},
        labels=data.labels,
        training=training,
    )
    if transfer is not None:
        transfer.remember(task, {name: s.detach() for name, s in learning.scores.items()})
    return task


def _fit(
    learning: Learning,
    data: TaskData,
    recipe: Recipe,
    generator: torch.Generator,
    progress: Progress | None,
) -> None:
    inputs, targets = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    learning.module.train()
    for step, rows in enumerate(batch_rows(len(inputs), recipe, generator), start=1):
        loss = learning.step(inputs[rows], targets[rows])
        if progress is not None:
            progress(step, loss.item())
    learning.module.eval()
    if not torch.isfinite(loss):
        raise InputError(
            f"task {data.name!r}: the last loss is {loss.item()}, it must be finite; "
            "lower the learning rate"
        )


def _tested(learning: Learning, real_outputs: int, data: TaskData) -> dict[str, float]:
    """Of the test images: ``accuracy``, by the largest real output; ``entropy``, the mean H."""
    inputs = torch.from_numpy(data.test_x)
    targets = torch.from_numpy(data.test_y)
    right, total = 0, 0.0
    with torch.no_grad():
        for rows in torch.arange(len(inputs)).split(1000):  # type: ignore[no-untyped-call]  # torch
            logits = learning.logits(inputs[rows])
            right += int((logits[:, :real_outputs].argmax(1) == targets[rows]).sum())
            logs = logits.log_softmax(1)
            total -= float((logs.exp() * logs).sum())
    return {"accuracy": right / len(inputs), "entropy": max(total, 0.0) / len(inputs)}


def batch_rows(count: int, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices of each step: shuffled epochs, an incomplete last batch left out."""
    size = min(recipe.batch_size, count)
    done = 0
    while done < recipe.steps:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            if done == recipe.steps:
                return
            yield order[start : start + size]
            done += 1


def check_data(
    place: str, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], network: Network
) -> None:
    """Refuse inputs and labels that do not fit a network.

    Raises:
        InputError: At the first rule of `train_task` that is broken.
    """
    shape = ", ".join(map(str, network.input_shape))
    if x.dtype != np.float32 or x.shape[1:] != network.input_shape or len(x) == 0:
        raise InputError(
            f"task {place}: x must be float32 (images, {shape}) with at least one image, "
            f"got {x.dtype} {x.shape}"
        )
    if not np.isfinite([x.min(), x.max()]).all():
        raise InputError(f"task {place}: x must be finite, got NaN or infinity")
    if y.dtype != np.int64 or y.shape != (len(x),):
        raise InputError(f"task {place}: y must be int64 ({len(x)},), got {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= network.real_outputs:
        raise InputError(
            f"task {place}: labels must be in [0, {network.real_outputs}), "
            f"got {y.min()} to {y.max()}"
        )
