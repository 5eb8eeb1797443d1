"""What a model with a Hopfield store says of it beside the graph (docs/CONTRACT.md)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from supsup_runtime.arrays import Bits, Floats
from supsup_runtime.bank.network import Network, StateTensor, canonical_json
from supsup_runtime.errors import BankError
from supsup_runtime.hopfield.matrix import DTYPES, RULES
from supsup_runtime.hopfield.store import FINGERPRINT, HopfieldStore, is_entropy

__all__ = ["BLEND", "HopfieldInfo", "is_blend", "with_batch_statistics"]

BLEND = ".blend"
"""Ends the name of a state tensor that says which share of a normalisation is the batch's."""
_FIELDS = {"diagonal", "dtype", "entropies", "fingerprints", "mean", "rule", "state"}
_FINGERPRINT = re.compile(f"[0-9a-f]{{{FINGERPRINT}}}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HopfieldInfo:
    """What recovery needs to know of a store, its matrices aside.

    Attributes:
        rule: ``hebb`` or ``storkey``.
        dtype: Of the matrices in the model, ``float32`` or ``float16``.
        mean: The mean pattern, ``float32 (num_masked,)`` within ``[-1, 1]``: where recovery starts.
        diagonal: Of the matrices, ``float32 (num_masked,)``.
        state: The mean of the tasks' state, ``float32 (num_state,)``.
        fingerprints: Of each task's masks, one a parameter.
        entropies: Of each task's own test images, in nats; None where it was not recorded.
    """

    rule: str
    dtype: str
    mean: Floats
    diagonal: Floats
    state: Floats
    fingerprints: tuple[tuple[str, ...], ...]
    entropies: tuple[float | None, ...]

    @classmethod
    def of(cls, store: HopfieldStore) -> HopfieldInfo:
        """What a store says.

        Raises:
            InputError: If no task is encoded.
        """
        names = [p.name for p in store.network.parameters]
        state = [value.reshape(-1) for value in store.mean_state().values()]
        diagonals = [store.matrices[name].diagonal() for name in names]
        return cls(
            rule=store.rule,
            dtype=store.dtype,
            mean=np.concatenate([store.mean(name) for name in names]),
            diagonal=np.concatenate(diagonals),
            state=np.concatenate([*state, np.zeros(0, np.float32)]),
            fingerprints=tuple(task.fingerprints for task in store.tasks),
            entropies=tuple(task.entropy for task in store.tasks),
        )

    def to_json(self) -> str:
        """Canonical JSON; arrays are little-endian float32 in base64."""
        return canonical_json(
            {
                "diagonal": _encode(self.diagonal),
                "dtype": self.dtype,
                "entropies": list(self.entropies),
                "fingerprints": [list(marks) for marks in self.fingerprints],
                "mean": _encode(self.mean),
                "rule": self.rule,
                "state": _encode(self.state),
            }
        )

    @classmethod
    def from_json(cls, text: str, network: Network, *, num_tasks: int) -> HopfieldInfo:
        """Invert `to_json`.

        Raises:
            BankError: If it does not fit the network or the number of tasks.
            ValueError: If it is not JSON, or not base64.
        """
        value = json.loads(text)
        if not isinstance(value, dict) or set(value) != _FIELDS:
            got = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise BankError(f"hopfield: fields must be {sorted(_FIELDS)}, got {got}")
        for name, allowed in (("rule", RULES), ("dtype", DTYPES)):
            if value[name] not in allowed:
                raise BankError(f"hopfield: {name} must be one of {allowed}, got {value[name]!r}")
        marks, entropies = value["fingerprints"], value["entropies"]
        if not (_are_marks(marks, len(network.parameters)) and len(marks) == num_tasks):
            raise BankError(
                f"hopfield: fingerprints must be those of {num_tasks} tasks, one a parameter, "
                f"got {marks!r:.80}"
            )
        if not (
            isinstance(entropies, list)
            and len(entropies) == num_tasks
            and all(entropy is None or is_entropy(entropy) for entropy in entropies)
        ):
            raise BankError(
                f"hopfield: entropies must be those of {num_tasks} tasks, null or at least 0, "
                f"got {entropies!r:.80}"
            )
        mean = _decode(value["mean"], network.num_masked, "mean")
        if np.abs(mean).max() > 1:
            raise BankError(f"hopfield: mean must be within [-1, 1], got {np.abs(mean).max():.6g}")
        return cls(
            rule=value["rule"],
            dtype=value["dtype"],
            mean=mean,
            diagonal=_decode(value["diagonal"], network.num_masked, "diagonal"),
            state=_decode(value["state"], network.num_state, "state"),
            fingerprints=tuple(map(tuple, marks)),
            entropies=tuple(None if entropy is None else float(entropy) for entropy in entropies),
        )


def is_blend(state: Sequence[StateTensor]) -> Bits:
    """Which elements of a flat state are blends: ``bool (num_state,)``."""
    marks = [np.full(tensor.size, tensor.name.endswith(BLEND)) for tensor in state]
    return np.concatenate([*marks, np.zeros(0, np.bool_)])


def with_batch_statistics(state: Sequence[StateTensor], values: Floats) -> Floats:
    """State whose normalisations take the batch's statistics, where it says so by a blend.

    Args:
        state: The network's.
        values: Flat, ``float32 (num_state,)``, as `HopfieldInfo.state`.
    """
    return np.where(is_blend(state), np.float32(1), values)


def _are_marks(value: object, parameters: int) -> bool:
    return isinstance(value, list) and all(
        isinstance(marks, list)
        and len(marks) == parameters
        and all(isinstance(mark, str) and _FINGERPRINT.fullmatch(mark) for mark in marks)
        for marks in value
    )


def _encode(values: Floats) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _decode(text: object, size: int, name: str) -> Floats:
    data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    if len(data) != 4 * size:
        raise BankError(f"hopfield: {name} must have {size} floats, got {len(data)} bytes")
    values = np.frombuffer(data, "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise BankError(f"hopfield: {name} must be finite, got NaN or infinity")
    return values
