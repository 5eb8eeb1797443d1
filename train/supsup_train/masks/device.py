"""What computes the learning of masks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from supsup_runtime.arrays import check_choice, check_kind, checked_whole
from supsup_runtime.errors import InputError, SupSupError

Precision = Literal["float32", "bfloat16"]
_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")
MAX_TASKS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What computes the learning of masks.

    Attributes:
        name: ``cpu``, ``cuda`` or ``cuda:N``.
        tasks: Tasks learned at once. Masks differ in few bits from those of one by one, because
            batched products round otherwise.
        precision: Of products; ``bfloat16`` is mixed precision: scores and optimizer stay
            ``float32``. A bank may mix devices and precisions; records of tasks tell them.

    Raises:
        InputError: If a setting is out of range.
    """

    name: str = "cpu"
    tasks: int = 1
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_kind("device:", self.name, str, "a name")
        if not _DEVICE.fullmatch(self.name):
            raise InputError(f"device: must be cpu, cuda or cuda:N, got {self.name!r:.80}")
        checked_whole("tasks at once:", self.tasks, 1, MAX_TASKS)
        check_choice("precision:", self.precision, get_args(Precision))

    @property
    def is_plain(self) -> bool:
        """Whether tasks are learned one by one on the CPU, in float32."""
        return self == Device()

    def record(self) -> dict[str, Any]:
        """Return what the training record says of the device; nothing of the plain one."""
        if self.is_plain:
            return {}
        return {"device": self.name, "precision": self.precision, "tasks_at_once": self.tasks}

    def check(self) -> None:
        """Raise `InputError` unless PyTorch has the device."""
        if self.name == "cpu":
            return
        count, number = torch.cuda.device_count(), int(self.name.partition(":")[2] or 0)
        if number >= count:
            found = "no CUDA device" if not count else f"cuda:0 to cuda:{count - 1}"
            raise InputError(
                f"device: {self.name} must be one that PyTorch {torch.__version__} can use, found "
                f"{found}; use cpu, or install a PyTorch and a driver for CUDA"
            )

    @contextmanager
    def computing(self, names: Sequence[str]) -> Iterator[None]:
        """Compute the learning of these tasks: errors are `InputError`s."""
        try:
            with nullcontext() if self.name == "cpu" else _without_tf32():
                yield
        except SupSupError:
            raise
        except Exception as error:  # of torch: no memory, no device, vmap's refusals; of a module
            place = f"tasks {names[0]!r} to {names[-1]!r}" if names[1:] else f"task {names[0]!r}"
            reason = str(error).strip().partition("\n")[0]
            remedy = "learn fewer at once (--vectorise), or --device cpu"
            if self.name == "cpu":
                remedy = "learn them one by one, without --vectorise and --precision"
            raise InputError(
                f"{place}: cannot be learned at once on {self.name}: {reason:.300}; the same "
                f"command resumes: {remedy}"
            ) from error


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Convolve as exactly as `float32` does, which is not PyTorch's default as for products."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
