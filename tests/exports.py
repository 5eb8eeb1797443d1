"""Exports made once: most tests want a bank of a small network, and many want an equal one.

Exporting takes seconds, and its result depends on the network and not on the values of its inputs,
the masked parameters and the state: tests/train/test_programs.py shows it on the real thing.
Commands in processes of their own export as always.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from supsup_train.programs.programs import Programs, export_programs

Export = Callable[..., Programs]
# What every module has from `nn.Module`: hooks, which must be none, and what is described by name.
_OF_TORCH = vars(nn.Module())
_DESCRIBED = {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}


@contextmanager
def each_made_once() -> Iterator[None]:
    """Banks of equal networks share an export, and exports share torch's table of operators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "supsup_train.networks.create_bank.export_programs", remembering(export_programs)
        )
        patch.setattr(ONNXRegistry, "from_torchlib", _one_registry())
        yield


def remembering(export: Export) -> Export:
    """An `export_programs` that makes the programs of equal networks once."""
    made: dict[Hashable, Programs] = {}

    def remembered(module: nn.Module, **options: Any) -> Programs:
        key = key_of(module, **options)
        if key is None:
            return export(module, **options)
        if key not in made:
            programs = export(module, **options)
            if programs.gradient is None:  # it comes with a warning, every time
                return programs
            made[key] = programs
        return made[key]

    return remembered


def key_of(
    module: nn.Module, *, parameters: list[str], state: list[str], **options: Any
) -> Hashable:
    """Equal for modules that export to the same programs; None where that is hard to tell.

    Classes and functions count as themselves: one that is defined anew, in a function or a file
    loaded again, is another one, whatever it closes over.
    """
    free = {*parameters, *state}
    seen: dict[int, str] = {}  # the same part or tensor under two names
    parts, tensors = [], []
    for name, part in module.named_modules(remove_duplicate=False):
        if any(vars(part)[key] != _OF_TORCH[key] for key in _OF_TORCH.keys() - _DESCRIBED):
            return None
        own = {key: value for key, value in vars(part).items() if key not in _OF_TORCH}
        kind = type(part)
        parts.append((seen.setdefault(id(part), name), kind, kind.forward, _plain(own)))
    for named in (module.named_parameters, module.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            value = None if name in free else tensor.detach().cpu().contiguous().numpy().tobytes()
            same = seen.setdefault(id(tensor), name)
            tensors.append((name, same, type(tensor), tensor.dtype, tuple(tensor.shape), value))
    key = (tuple(parts), tuple(tensors), *map(_plain, (parameters, state, options)))
    return None if _UNKNOWN in _leaves(key) else key


_UNKNOWN = object()


def _plain(value: object) -> Hashable:
    """A value with its types, as True equals 1; `_UNKNOWN` in place of what may be anything."""
    if isinstance(value, dict):
        return (dict, tuple((key, _plain(each)) for key, each in value.items()))
    if isinstance(value, list | tuple):
        return (type(value), tuple(map(_plain, value)))
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return (type(value), value)
    return _UNKNOWN


def _leaves(key: Hashable) -> Iterator[Hashable]:
    if isinstance(key, tuple):
        for each in key:
            yield from _leaves(each)
    else:
        yield key


def _one_registry() -> staticmethod[..., ONNXRegistry]:
    """Torch reads the source of all its translations to ONNX on every export, for a second.

    What it makes of an operator does not change; what an export adds goes into its own copy.
    """
    real = cache(ONNXRegistry.from_torchlib)

    def from_torchlib(*options: Any, **named: Any) -> ONNXRegistry:
        made = copy.copy(real(*options, **named))
        made.functions = {target: [*known] for target, known in made.functions.items()}
        return made

    return staticmethod(from_torchlib)
