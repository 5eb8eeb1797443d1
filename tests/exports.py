"""Exports made once: most tests want a bank of a small network, and many want an equal one.

An export takes seconds. Its result depends on the network, not on the values of its inputs, the
masked parameters and the state: tests/train/programs/test_programs.py shows that. Commands that run
in their own process export as always.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import pytest
from torch import Tensor, nn

from supsup_train.programs.programs import Programs, export_programs

Export = Callable[..., Programs]


@contextmanager
def each_made_once() -> Iterator[None]:
    """Banks of equal networks share an export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "supsup_train.networks.create_bank.export_programs", remembering(export_programs)
        )
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
    """Equal for modules that export to the same programs; None for one that cannot be pickled.

    Classes and functions count as themselves, so one that is defined again is another.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    free = {id(tensor): name for name, tensor in tensors if name in {*parameters, *state}}
    written, itself = io.BytesIO(), [type(part).forward for part in module.modules()]
    try:
        _Described(written, free, itself).dump((module, parameters, state, options))
    except (pickle.PicklingError, TypeError, RuntimeError):  # the last of parametrizations
        return None
    return written.getvalue(), tuple(itself)


class _Described(pickle.Pickler):
    """Pickles a module with its inputs by name, its other tensors by value, and code by identity.

    What counts by identity is put into `itself`, which must be kept as long as the result.
    """

    def __init__(self, file: io.BytesIO, free: dict[int, str], itself: list[Any]) -> None:
        super().__init__(file)
        self._free, self._itself = free, itself

    def persistent_id(self, value: object) -> object:
        if isinstance(value, type | FunctionType):
            self._itself.append(value)
            return id(value)
        if not isinstance(value, Tensor):
            return None
        array = value.detach().cpu().numpy()
        content = self._free.get(id(value)) or array.tobytes()
        return type(value).__name__, str(array.dtype), array.shape, value.requires_grad, content
