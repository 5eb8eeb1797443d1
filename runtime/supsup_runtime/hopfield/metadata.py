"""Metadata about the Hopfield store of an exported model (docs/CONTRACT.md)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from supsup_runtime.arrays import Bits, Floats, about
from supsup_runtime.bank.fields import Fields, canonical_json, parse_json
from supsup_runtime.bank.layout import join
from supsup_runtime.bank.network import Network, StateTensor
from supsup_runtime.errors import BankError
from supsup_runtime.hopfield.matrix import DTYPES, RULES
from supsup_runtime.hopfield.store import HopfieldStore, are_fingerprints, is_entropy

BLEND = ".blend"
"""Suffix of state tensors that set the batch's share in a normalisation."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HopfieldInfo:
    """What a recovery needs from a store besides its matrices.

    Attributes:
        rule: ``hebb`` or ``storkey``.
        dtype: ``float32`` or ``float16``, of the matrices.
        mean: Mean pattern, ``float32 (num_masked,)`` within ``[-1, 1]``.
        diagonal: Of the matrices, ``float32 (num_masked,)``.
        state: Mean state of the tasks, ``float32 (num_state,)``.
        fingerprints: By task, one per parameter.
        entropies: By task, H of its test images in nats, or None.
    """

    rule: str
    dtype: str
    mean: Floats
    diagonal: Floats
    state: Floats
    fingerprints: tuple[tuple[str, ...], ...]
    entropies: tuple[float | None, ...]

    def __repr__(self) -> str:
        return about(self, f"{len(self.fingerprints)} tasks", self.rule, self.dtype)

    def __post_init__(self) -> None:
        for name in ("mean", "diagonal", "state"):
            if not np.isfinite(getattr(self, name)).all():
                raise BankError(f"hopfield: {name} must be finite, got NaN or infinity")
        if np.abs(self.mean).max() > 1:
            got = np.abs(self.mean).max()
            raise BankError(f"hopfield: mean must be within [-1, 1], got {got:.6g}")

    @classmethod
    def of(cls, store: HopfieldStore) -> HopfieldInfo:
        """Return the metadata of a store.

        Raises:
            InputError: If it has no tasks.
            BankError: If the mean state exceeds float32.
        """
        return cls(
            rule=store.rule,
            dtype=store.dtype,
            mean=join(store.mean(name) for name in store.matrices),
            diagonal=join(matrix.diagonal() for matrix in store.matrices.values()),
            state=join(store.mean_state().values()),
            fingerprints=tuple(task.fingerprints for task in store.tasks),
            entropies=tuple(task.entropy for task in store.tasks),
        )

    def to_json(self) -> str:
        """Return canonical JSON, arrays as little-endian float32 in base64."""
        arrays = {name: _encode(getattr(self, name)) for name in ("diagonal", "mean", "state")}
        return canonical_json(asdict(self) | arrays)

    @classmethod
    def from_json(cls, text: str, network: Network, *, num_tasks: int) -> HopfieldInfo:
        """Invert `to_json`.

        Raises:
            BankError: If it does not fit the network or `num_tasks`.
            ValueError: If it is not JSON or base64.
        """
        value, names = parse_json(text, "hopfield "), {field.name for field in fields(cls)}
        found = Fields(value, names, "hopfield")
        for name, allowed in (("rule", RULES), ("dtype", DTYPES)):
            if found[name] not in allowed:
                raise BankError(f"hopfield: {name} must be one of {allowed}, got {found[name]!r}")
        marks, entropies = found.items("fingerprints"), found.items("entropies")
        count = len(network.parameters)
        if len(marks) != num_tasks or not all(are_fingerprints(own, count) for own in marks):
            raise BankError(
                f"hopfield: fingerprints must be those of {num_tasks} tasks, one per parameter, "
                f"got {marks!r:.80}"
            )
        if len(entropies) != num_tasks or not all(e is None or is_entropy(e) for e in entropies):
            raise BankError(
                f"hopfield: entropies must be those of {num_tasks} tasks, null or at least 0, "
                f"got {entropies!r:.80}"
            )
        return cls(
            rule=found["rule"],
            dtype=found["dtype"],
            mean=_decode(found["mean"], network.num_masked, "mean"),
            diagonal=_decode(found["diagonal"], network.num_masked, "diagonal"),
            state=_decode(found["state"], network.num_state, "state"),
            fingerprints=tuple(map(tuple, marks)),
            entropies=tuple(None if entropy is None else float(entropy) for entropy in entropies),
        )


def is_blend(state: Sequence[StateTensor]) -> Bits:
    """Return which elements of a flat state are blends, ``bool (num_state,)``."""
    return join((np.full(t.size, t.name.endswith(BLEND)) for t in state), np.bool_)


def with_batch_statistics(state: Sequence[StateTensor], values: Floats) -> Floats:
    """Return flat state ``float32 (num_state,)`` with blends at 1 (batch statistics)."""
    return np.where(is_blend(state), np.float32(1), values)


def _encode(values: Floats) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _decode(text: object, size: int, name: str) -> Floats:
    data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    if len(data) != 4 * size:
        raise BankError(f"hopfield: {name} must have {size} floats, got {len(data)} bytes")
    return np.frombuffer(data, "<f4").astype(np.float32)
