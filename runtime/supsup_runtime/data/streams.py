"""Streams of tasks over one data set (docs/DATA.md).

Tasks are made on demand and not kept. Equal arguments give equal arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import (
    Array,
    Floats,
    Labels,
    Values,
    check_choice,
    check_kind,
    check_number,
    checked_index,
    checked_whole,
)
from supsup_runtime.data.dataset import MAX_CLASSES, Dataset
from supsup_runtime.data.views import (
    NO_CLASS,
    View,
    mixed,
    order_of,
    permuted,
    require_images,
    rotated,
    split,
    view_flat,
)
from supsup_runtime.errors import DataError
from supsup_runtime.preprocessing import Moment, Preprocessing, spread

StreamKind = Literal["permuted", "rotated", "split", "mixed"]
Layout = Literal["flat", "image"]
LabelKind = Literal["own", "shared"]

STREAM_KINDS: tuple[StreamKind, ...] = get_args(StreamKind)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
MAX_TASKS = 1_000_000
"""Tasks of one stream."""
MIN_DEGREES = 0.01
"""Smallest step between rotated tasks, whose names have up to three decimals."""
MAX_SEED = 2**32 - 1
"""Of numpy's RandomState."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskData:
    """Normalised data of one task, in C-contiguous arrays of its own.

    Attributes:
        name: Task name, such as ``permuted-0000``, ``rotated-090`` or ``split-0-1``.
        labels: Class names, by label.
        train_x: ``float32 (images, *input_shape)``; empty with ``train=False``.
        train_y: ``int64 (images,)`` in ``[0, len(labels))``.
        test_x: As `train_x`, never empty.
        test_y: As `train_y`.
    """

    name: str
    labels: tuple[str, ...]
    train_x: Floats
    train_y: Labels
    test_x: Floats
    test_y: Labels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """A sequence of tasks over one data set; see `make_stream`.

    Attributes:
        kind: ``permuted``, ``rotated``, ``split`` or ``mixed``.
        dataset: The data set.
        task_names: Unique, sorted in task order (``mixed``: per kind).
        task_labels: Class names by task, equally many for all.
        input_shape: ``(values,)`` or ``(channels, height, width)``.
        seed: Seed of permuted tasks.
        view: Maps ``(index, raw values, labels)`` to those of the task; images are ``(images,
            channels, height, width)``.
    """

    kind: StreamKind
    dataset: Dataset
    task_names: tuple[str, ...]
    task_labels: tuple[tuple[str, ...], ...]
    input_shape: tuple[int, ...]
    seed: int
    view: View

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Steps from pictures to the inputs of split tasks; None if images are no RGB of bytes."""
        data = self.dataset
        x = data.train_x
        if self.kind != "split" or x.dtype != np.uint8 or x.shape[3:] != (3,):
            return None
        size, mean, std = (x.shape[1], x.shape[2]), data.mean, data.std
        return Preprocessing(mode="rgb", size=size, scale=data.scale, mean=mean, std=std)

    @property
    def place(self) -> str:
        """Name of the data set, for messages."""
        return self.dataset.name

    @property
    def picture_shape(self) -> tuple[int, ...] | None:
        """``(channels, height, width)``, as which flat inputs are pictures; None of features."""
        return None if self.dataset.train_x.ndim == 2 else _input_shape(self.dataset, "image")

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.task_names)

    @property
    def real_outputs(self) -> int:
        """Number of classes per task."""
        return len(self.task_labels[0])

    def origin(self, index: int) -> dict[str, str]:  # noqa: ARG002 - of all tasks alike
        """Return a task's origin for its training record: ``data``, SHA-256 of the data set."""
        return {"data": self.dataset.fingerprint, "stream": self.kind}

    def task(self, index: int, *, train: bool = True) -> TaskData:
        """Make one task in new arrays.

        Args:
            index: In ``[0, num_tasks)``.
            train: False leaves out the training part, at no cost.

        Raises:
            DataError: If `index` is out of range, or scipy is missing (rotated).
        """
        place = f"{self.kind} stream: task index"
        index = checked_index(place, index, self.num_tasks, error=DataError)
        data = self.dataset
        train_x = np.empty((0, *self.input_shape), np.float32)
        train_y = np.empty(0, np.int64)
        if train:
            train_x, train_y = self._part(index, data.train_x, data.train_y)
        test_x, test_y = self._part(index, data.test_x, data.test_y)
        return TaskData(
            name=self.task_names[index],
            labels=self.task_labels[index],
            train_x=train_x,
            train_y=train_y,
            test_x=test_x,
            test_y=test_y,
        )

    def unpermuted(self) -> TaskData:
        """Make the images of all tasks of a permuted stream, each of which sees them in its order.

        Name and labels are those of the first task.

        Raises:
            DataError: If the stream is not permuted.
        """
        self._check_permuted()
        return replace(self, view=view_flat).task(0)

    def order(self, index: int) -> npt.NDArray[np.int64]:
        """Return the order in which a task of a permuted stream sees values, ``int64 (values,)``.

        Its inputs are ``x.reshape(len(x), -1)[:, order]`` of those `unpermuted`, in their shape.

        Raises:
            DataError: If the stream is not permuted, or `index` is out of range.
        """
        self._check_permuted()
        place = f"{self.kind} stream: task index"
        index = checked_index(place, index, self.num_tasks, error=DataError)
        return order_of(index, math.prod(self.input_shape), self.seed)

    def prepare(self, index: int, pictures: Sequence[Array]) -> Floats:
        """Prepare other pictures as a task's, ``(n, *input_shape)``; refuse what cannot be."""
        wanted = self.dataset.train_x.dtype, self.dataset.train_x.shape[1:]
        for each in pictures:
            if (got := (each.dtype, each.shape)) != wanted:
                raise DataError(
                    f"pictures must be {wanted[0]} {wanted[1]}, as those of {self.place}, got "
                    f"{got[0]} {got[1]}"
                )
        return self._part(index, np.stack(pictures), np.full(len(pictures), NO_CLASS))[0]

    def _check_permuted(self) -> None:
        if self.kind != "permuted":
            raise DataError(
                f"{self.kind} stream: must be permuted for tasks to share images; use task()"
            )

    def _part(self, index: int, x: Values, y: Labels) -> tuple[Floats, Labels]:
        images = _channels_first(x)
        raw, labels = self.view(index, images, y)
        normalised: Floats = np.divide(
            raw, np.float32(self.dataset.scale), dtype=np.float32, order="C"
        )
        normalised -= self._moment(index, self.dataset.mean, raw, images)
        normalised /= self._moment(index, self.dataset.std, raw, images)
        return normalised.reshape(len(raw), *self.input_shape), labels.copy()

    def _moment(self, index: int, value: Moment, raw: Values, images: Values) -> Floats:
        """Return a mean or deviation as it meets raw values; a channel's is permuted with them."""
        moment = spread(value)
        if not moment.ndim or raw.ndim == 4:
            return moment
        whole = np.broadcast_to(moment, images.shape[1:])[np.newaxis]
        return self.view(index, whole, np.zeros(1, np.int64))[0]  # type: ignore[return-value]


def make_stream(  # noqa: PLR0913 - each is an option of its own
    kind: str,
    dataset: Dataset,
    *,
    num_tasks: int,
    seed: int = 0,
    layout: Layout = "flat",
    degrees: float = 10.0,
    classes_per_task: int | None = None,
    class_seed: int | None = None,
    labels: str = "own",
) -> Stream:
    """Make a stream of tasks.

    Args:
        kind: ``permuted``: task `k` is ``x[:, RandomState(seed + k).permutation(values)]`` of the
            flat values. ``rotated``: images turned counter-clockwise by ``k * degrees``. ``split``:
            the `k`-th group of classes. ``mixed``: the three in turn, with the data set's labels.
        dataset: Images; ``permuted`` and ``split`` also support feature vectors.
        num_tasks: In ``[1, MAX_TASKS]``.
        seed: Seed of permuted tasks; task 0 of seed 1 is task 1 of seed 0. Disjoint streams need
            seeds at least `num_tasks` apart.
        layout: ``flat``: inputs ``(values,)``, in the order of ``image``. ``image``: inputs
            ``(channels, height, width)``, one channel for grey images.
        degrees: Step of rotated tasks, at least `MIN_DEGREES`; ``num_tasks * degrees <= 360`` for
            ``rotated``.
        classes_per_task: Classes of a split task; all are divided evenly by default (``mixed``: 2).
        class_seed: Split tasks take classes in the order of
            ``RandomState(class_seed).permutation(classes)``; by default in that of the data set.
        labels: Labels of split tasks: ``own`` counts from 0 in each task, ``shared`` keeps the data
            set's, as other streams do.

    Raises:
        DataError: If an argument is out of range, or the data set does not fit.
    """
    check_choice("stream: kind", kind, STREAM_KINDS, error=DataError)
    check_kind("stream: dataset", dataset, Dataset, "a Dataset", error=DataError)
    place = f"{kind} stream: num_tasks"
    num_tasks = checked_whole(place, num_tasks, 1, MAX_TASKS, error=DataError)
    check_choice("stream: labels", labels, LABEL_KINDS, error=DataError)
    last = MAX_SEED - (num_tasks - 1)
    seed = checked_whole(f"{kind} stream: seed", seed, 0, last, error=DataError)
    rule, place = f"finite and at least {MIN_DEGREES}", f"{kind} stream: degrees"
    check_number(place, degrees, lambda d: MIN_DEGREES <= d < math.inf, rule, error=DataError)
    if classes_per_task is not None:
        place = f"{kind} stream: classes_per_task"
        classes_per_task = checked_whole(place, classes_per_task, 1, MAX_CLASSES, error=DataError)
    if class_seed is not None:
        place = "split stream: class_seed"
        class_seed = checked_whole(place, class_seed, 0, MAX_SEED, error=DataError)
    input_shape = _input_shape(dataset, layout)
    task_labels = (dataset.class_names,) * num_tasks
    if kind == "permuted":
        names, view = permuted(num_tasks, seed)
    elif kind == "rotated":
        names, view = rotated(dataset, num_tasks, degrees)
    elif kind == "mixed":
        names, view = mixed(dataset, num_tasks, seed, degrees, classes_per_task)
    elif kind == "split":
        shared = labels == "shared"
        names, own, view = split(
            dataset, num_tasks, classes_per_task, shared=shared, class_seed=class_seed
        )
        task_labels = own or task_labels
    return Stream(
        kind=kind,  # type: ignore[arg-type]  # one of StreamKind's, checked above
        dataset=dataset,
        task_names=names,
        task_labels=task_labels,
        input_shape=input_shape,
        seed=seed,
        view=view,
    )


def _input_shape(dataset: Dataset, layout: str) -> tuple[int, ...]:
    check_choice("stream: layout", layout, LAYOUTS, error=DataError)
    shape = dataset.train_x.shape[1:]
    if layout == "flat":
        return (math.prod(shape),)
    require_images(dataset, "layout 'image'", "use layout 'flat'")
    return (shape[2] if len(shape) == 3 else 1, *shape[:2])


def _channels_first(x: Values) -> Values:
    if x.ndim == 2:
        return x
    return x[:, np.newaxis] if x.ndim == 3 else np.moveaxis(x, 3, 1)
