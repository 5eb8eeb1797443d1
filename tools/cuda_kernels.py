"""Kernels of ONNX Runtime's CUDA provider for the operators of our models: `cuda_kernels.txt`.

As a program it prints what the installed onnxruntime-gpu lacks of them, as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

MOVED = {"Add", "And", "Cast", "Concat", "Div", "Equal", "Max", "Mul", "Reshape", "Split"}
MOVED |= {"Squeeze"}
"""Operators of which ONNX Runtime moves nodes to the CPU that read only sizes and constants."""
_FLOATS = ("double", "float", "float16")
_WIDE = (*_FLOATS, "int32", "int64", "uint32", "uint64")
_NUMBER = (*_WIDE, "int8", "int16", "uint8", "uint16")
_GROUPS = {"floats": _FLOATS, "wide": _WIDE, "number": _NUMBER, "all": ("bool", *_NUMBER)}


@dataclass(frozen=True, slots=True)
class Kernel:
    """Kernels for a range of opsets, with element types by constraint of the operator."""

    first: int
    last: float
    types: Mapping[str, frozenset[str]]

    def takes(self, opset: int, bound: Mapping[str, str]) -> bool:
        """Return whether there is a kernel for element types by constraint."""
        known = all(kind in self.types.get(name, ()) for name, kind in bound.items())
        return self.first <= opset <= self.last and known


@cache
def kernels() -> dict[str, Kernel]:
    """Return kernels by operator, ``com.microsoft.`` before those of that domain."""
    found = {}
    for line in Path(__file__).with_suffix(".txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        operator, first, last, *pairs = line.split()
        types = dict(pair.split("=") for pair in pairs)
        found[operator] = Kernel(
            first=int(first),
            last=math.inf if last == "-" else int(last),
            types={name: _types(kinds.split(",")) for name, kinds in types.items()},
        )
    return found


def _types(kinds: Iterable[str]) -> frozenset[str]:
    return frozenset(each for kind in kinds for each in _GROUPS.get(kind, (kind,)))


def unexpected(nodes: Iterable[str]) -> list[str]:
    """Return those of ``provider operator`` that ran on the CPU against the table."""
    words = [node.split() for node in nodes]
    return sorted({op for name, op in words if name.startswith("CPU") and op not in MOVED})


def differing(registered: Iterable[Any]) -> list[str]:
    """Return operators of the table that lack types among an onnxruntime-gpu's kernels.

    `registered` is its ``get_all_opkernel_def()``.
    """
    found: dict[str, set[str]] = {}
    for kernel in registered:
        operator = ".".join(filter(None, (kernel.domain, kernel.op_name)))
        opset, (first, last) = 1 if kernel.domain else 18, kernel.version_range
        if kernel.provider == "CUDAExecutionProvider" and first <= opset <= last:
            kinds = (kind for each in kernel.type_constraints.values() for kind in each)
            found.setdefault(operator, set()).update(kind[len("tensor(") : -1] for kind in kinds)
    wanted = {op: frozenset().union(*kernel.types.values()) for op, kernel in kernels().items()}
    lacking = {op: sorted(kinds - found.get(op, set())) for op, kinds in wanted.items()}
    return [f"{op}: no {', '.join(kinds)}" for op, kinds in sorted(lacking.items()) if kinds]


if __name__ == "__main__":
    from onnxruntime.capi import onnxruntime_pybind11_state

    print(json.dumps(differing(onnxruntime_pybind11_state.get_all_opkernel_def())))
