"""Learn the masks of one task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supsup_runtime.arrays import Array, check_kind
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import TaskMasks, check_labels, check_name
from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import InputError
from supsup_train.masks.augment import augmented, check_augmented
from supsup_train.masks.gathering import Negatives
from supsup_train.masks.learning import Learning, initial_scores, task_seed
from supsup_train.masks.negatives import TaskNegatives
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.transfer import Transfer
from supsup_train.resume import Progress

_ROWS, _VALUES = 1000, 2**22
"""Of inputs that are tested at once: 1365 of 3 x 32 x 32, 27 of 3 x 224 x 224."""
Labelled = tuple[Array | Tensor, Array | Tensor]
"""Inputs and labels, on any device."""
_FEW = 8
"""Images by which a module is tried with negatives."""


def train_task(
    bank: MaskBank,
    module: nn.Module,
    data: TaskData,
    *,
    recipe: Recipe | None = None,
    record: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    transfer: Transfer | None = None,
    negatives: Negatives | None = None,
) -> TaskMasks:
    """Learn the masks and state of one task (paper, section 3).

    Args:
        bank: Bank of the module, from `create_bank`; not changed.
        module: The network; its masked weights are neither used nor changed.
        data: Inputs ``float32 (images, *input_shape)`` and labels ``int64 (images,)`` in
            ``[0, classes)``, with as many classes as `data` has labels or, without labels, as the
            network has real outputs. Accuracy on (a sample of) the training part, and accuracy and
            mean entropy on the test part, unless it is empty, go into the training record.
        recipe: Training settings; defaults to ``Recipe()``.
        record: Further JSON values for the training record.
        progress: Called after every step with its number, from 1, and the batch's loss.
        transfer: Required if the recipe transfers: one `Transfer` for all tasks. Add each task to
            the bank before you learn the next.
        negatives: Required if the recipe has negatives: one `Negatives` for all tasks.

    Returns:
        The task; add it with ``bank.add``.

    Raises:
        InputError: If the data, module or transfer does not match the bank or recipe, or a loss,
            score or trained state is not finite.
    """
    recipe = recipe or Recipe()
    check_kind("bank", bank, MaskBank, "a MaskBank, from create_bank")
    check_task(bank.network, data, recipe, transfer, negatives)
    learning, generator = begin_task(bank.network, module, data, recipe, transfer, negatives)
    fit(learning.step, data, recipe, generator, progress, learning.negatives)
    found = measured(learning, data, seen(data))
    return end_task(learning, data, recipe, {**(record or {}), **found}, transfer, negatives)


def check_task(
    network: Network,
    data: TaskData,
    recipe: Recipe,
    transfer: Transfer | None = None,
    negatives: Negatives | None = None,
) -> None:
    """Refuse a task that cannot be learned; see `train_task`."""
    check_kind("data", data, TaskData, "a TaskData")
    place = f"task {check_name(data.name)}"
    check_labels(data.labels, network, place)
    classes = network.real_outputs_of(data.labels)
    check_data(place, data.train_x, data.train_y, network, classes)
    if len(data.test_x):
        check_data(f"{place} (test)", data.test_x, data.test_y, network, classes)
    check_augmented(place, recipe.augment, network.input_shape)
    if recipe.transfer != "none" and transfer is None:
        raise InputError(
            f"task {data.name!r}: the recipe transfers {recipe.transfer}; give transfer=Transfer("
            "bank, recipe), one object for all tasks"
        )
    if transfer is not None and transfer.kind != recipe.transfer:
        raise InputError(
            f"task {data.name!r}: the Transfer was made for transfer {transfer.kind!r}, the recipe "
            f"has {recipe.transfer!r}; make it with the same recipe"
        )
    if recipe.negative_parts and negatives is None:
        raise InputError(
            f"{place}: the recipe has negatives {recipe.negatives!r:.80}; give negatives=Negatives("
            "bank, tasks, recipe), one object for all tasks"
        )
    if negatives is not None:
        check_kind("negatives", negatives, Negatives, "a Negatives")
        if (negatives.recipe, negatives.network) != (recipe, network):
            raise InputError(
                f"{place}: the Negatives was made for another recipe or network; make it with the "
                "same bank and recipe"
            )


def begin_task(
    network: Network,
    module: nn.Module,
    data: TaskData,
    recipe: Recipe,
    transfer: Transfer | None = None,
    negatives: Negatives | None = None,
    beside: Learning | None = None,
) -> tuple[Learning, torch.Generator]:
    """Return the training state and random numbers of a task that was checked.

    `beside` is that of another task of the same network, to be learned at once.
    """
    generator = torch.Generator().manual_seed(task_seed(recipe.seed, data.name))
    scores = initial_scores(network, generator, recipe.score_init)
    if transfer is not None:
        scores = transfer.start(scores)
    learning = Learning(network, module, recipe, scores, beside)
    if negatives is not None and recipe.negative_parts:
        learning.negatives = negatives.of(data)
        few = min(recipe.batch_size, len(data.train_x), _FEW)
        learning.check_own(f"task {data.name}", torch.from_numpy(data.train_x[:few]))
    return learning, generator


def takes_negatives(network: Network, module: nn.Module) -> bool:
    """Return whether negatives in a batch leave a module's other outputs and state as they are."""
    generator = torch.Generator().manual_seed(0)
    recipe = Recipe(negatives="turned")
    learning = Learning(network, module, recipe, initial_scores(network, generator, "uniform"))
    try:
        learning.check_own("", torch.rand((_FEW, *network.input_shape), generator=generator))
    except InputError:
        return False
    return True


def measured(
    learning: Learning, task: TaskData, images: tuple[Labelled, Labelled], device: str = "cpu"
) -> dict[str, float]:
    """Return how a learned task does on a sample of its training images, and on test images."""
    forward = learning.trained(f"task {task.name}", device)
    classes, (sample, test) = learning.network.real_outputs_of(task.labels), images
    found = {"train_accuracy": tested(forward, classes, sample)["accuracy"]}
    return found | tested(forward, classes, test) if len(test[0]) else found


def end_task(
    learning: Learning,
    data: TaskData,
    recipe: Recipe,
    record: Mapping[str, Any],
    transfer: Transfer | None = None,
    negatives: Negatives | None = None,
) -> TaskMasks:
    """Return a learned task with its training record."""
    training: dict[str, Any] = {"recipe": recipe.to_dict(), **record}
    if learning.negatives is not None and learning.negatives.tasks:
        training["negative_tasks"] = list(learning.negatives.tasks)
    if negatives is not None:
        training |= negatives.origin
    task = learning.to_task(data.name, training, labels=data.labels)
    if transfer is not None:
        transfer.remember(task, {name: s.detach() for name, s in learning.scores.items()})
    if negatives is not None:
        negatives.remember(task, data)
    return task


def fit(
    step: Callable[[str, Tensor, Tensor], float],
    data: TaskData,
    recipe: Recipe,
    generator: torch.Generator,
    progress: Progress | None,
    negatives: TaskNegatives | None = None,
) -> None:
    """Call `step` with an error place, inputs and labels of each training batch."""
    with seeded(recipe, data.name):
        for number, (x, y) in enumerate(batches(data, recipe, generator, negatives), start=1):
            loss = step(f"task {data.name!r}, step {number} of {recipe.steps}", x, y)
            if progress is not None:
                progress(number, loss)


@contextmanager
def seeded(recipe: Recipe, name: str) -> Iterator[None]:
    """Seed PyTorch's own generator for a task, which random layers such as dropout draw from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task_seed(recipe.seed, name))
        yield


def batches(
    data: TaskData,
    recipe: Recipe,
    generator: torch.Generator,
    negatives: TaskNegatives | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs, negatives last, and labels of the others, of each step."""
    inputs, targets = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    for rows in batch_rows(len(inputs), recipe, generator):
        x = augmented(inputs[rows], recipe.augment, generator)
        yield (x if negatives is None else negatives.after(x, generator)), targets[rows]


def tested(forward: Callable[[Tensor], Tensor], classes: int, images: Labelled) -> dict[str, float]:
    """Return the accuracy, within the task's classes, and mean entropy of images."""
    inputs, targets = map(torch.as_tensor, images)
    right, total = 0, 0.0
    step = max(1, min(_ROWS, _VALUES // inputs[0].numel()))
    with torch.no_grad():
        for start in range(0, len(inputs), step):
            rows = slice(start, start + step)
            logits = forward(inputs[rows])
            right += int((logits[:, :classes].argmax(1) == targets[rows].to(logits.device)).sum())
            logs = logits.log_softmax(1)
            total -= float((logs.exp() * logs).sum())
    return {"accuracy": right / len(inputs), "entropy": max(total, 0.0) / len(inputs)}


def seen(data: TaskData) -> tuple[Labelled, Labelled]:
    """Return at most 1000 training images, drawn with seed 0, and the test images of a task."""
    rows = np.random.RandomState(0).permutation(len(data.train_x))[:_ROWS]
    return (data.train_x[rows], data.train_y[rows]), (data.test_x, data.test_y)


def batch_rows(count: int, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the row indices of each step: shuffled epochs, incomplete last batches dropped."""
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
    place: str, x: Array | Tensor, y: Array | Tensor, network: Network, classes: int
) -> None:
    """Refuse inputs that do not match a network, and labels outside ``[0, classes)``."""
    shape = ", ".join(map(str, network.input_shape))
    kinds = [str(each.dtype).removeprefix("torch.") for each in (x, y)]
    if kinds[0] != "float32" or x.shape[1:] != network.input_shape or len(x) == 0:
        raise InputError(
            f"{place}: x must be float32 (images, {shape}) with at least one image, "
            f"got {kinds[0]} {tuple(x.shape)}"
        )
    if not (isfinite(x.min()) and isfinite(x.max())):
        raise InputError(f"{place}: x must be finite, got NaN or infinity")
    if kinds[1] != "int64" or y.shape != (len(x),):
        raise InputError(f"{place}: y must be int64 ({len(x)},), got {kinds[1]} {tuple(y.shape)}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise InputError(f"{place}: labels must be in [0, {classes}), got {low} to {high}")
