"""What this processor lacks, and which models are slow without it (docs/guide-device.md)."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

_ARM = ("aarch64", "arm64")
_NEEDED = {
    **dict.fromkeys(("x86_64", "amd64"), ("AVX2", "AVX2")),
    **dict.fromkeys(_ARM, ("ASIMDDP", "dotprod")),
}
"""What ONNX Runtime's kernels for 2 bits need, by machine: in numpy's words, and in usual ones."""


def advice(slow: str, faster: str) -> str:
    """Say that a model exported with 2 bits is slow on this processor; empty if it is not.

    Args:
        slow: Options of the export that gave it 2 bits.
        faster: Those to take instead.
    """
    lacks = lacking()
    return lacks and f"{slow} is slow on this processor, which lacks {lacks}; {faster} is faster"


def lacking() -> str:
    """Return the instructions that this processor lacks for products of 2 bits; empty if none."""
    machine = platform.machine().lower()
    if machine not in _NEEDED or (machine in _ARM and sys.platform != "linux"):
        return ""  # numpy asks for dotprod on Linux alone; elsewhere every ARM core has it
    name, usual = _NEEDED[machine]
    return "" if _features().get(name, True) else usual


def _features() -> Mapping[str, bool]:
    """Return the processor's features as numpy found them when it was imported.

    The table is private, but `numpy.show_runtime` prints it, and it is the same on every system;
    /proc/cpuinfo is Linux's alone, and its words differ by processor.
    """
    try:
        umath: Any = import_module("numpy._core._multiarray_umath")
        features: Mapping[str, bool] = umath.__cpu_features__
    except (AttributeError, ImportError):
        return {}
    return features
