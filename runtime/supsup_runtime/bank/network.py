"""The network of a bank: masked parameters, state, outputs and seed."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from supsup_runtime.arrays import (
    Bytes,
    Floats,
    about,
    as_number,
    check_choice,
    check_kind,
    check_number,
    checked_whole,
    is_whole,
    shown,
)
from supsup_runtime.bank.bits import pack_mask
from supsup_runtime.bank.fields import Fields, canonical_json, is_unicode
from supsup_runtime.bank.tensorfile import check_array
from supsup_runtime.bank.weights import MAX_SEED, kaiming_constant, seeded_weight, sign_plane
from supsup_runtime.errors import BankError, InputError
from supsup_runtime.preprocessing import Preprocessing

MAX_TENSORS = 10_000
"""Masked parameters, or state tensors, of one network."""
MAX_ELEMENTS = 2**33
"""Masked weights of one network, a mask of 1 GB; also the values of one input."""
MAX_RANK = 32
"""Sizes of one shape."""
MAX_OUTPUTS = 2**31 - 1
_MIN_CONSTANT = 2.0**-149  # the smallest float32
_MAX_CONSTANT = float(np.finfo(np.float32).max)
ONES = "ones"
SIGNED_CONSTANT = "signed-constant"
STORED = "stored"
INITS = (ONES, SIGNED_CONSTANT, STORED)
_SHA256 = re.compile(r"[0-9a-f]{64}")
STATE_DTYPES = ("float32", "float16")
_FIELDS = {
    "constants",
    "input_shape",
    "outputs",
    "parameters",
    "real_outputs",
    "state",
    "weight_seed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTensor:
    """A tensor of floats with values per task, such as BatchNorm's running mean."""

    name: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _checked_tensor(self.name, self.shape))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedParameter:
    """A tensor of the fixed network that masks apply to: weights of a layer, or scales of units.

    Attributes:
        name: Name in the module, such as ``layers.0.weight``.
        shape: ``(out, in, ...)``, or ``(units,)`` for masks over units.
        constant: Magnitude of every weight; 1 unless ``signed-constant``.
        init: ``signed-constant``: plus or minus `constant`, drawn from the seed. ``ones``: every
            weight is 1. ``stored``: any weights, which the bank stores.
        sha256: Hexadecimal SHA-256 of stored weights as little-endian float32; else empty.
        values: Stored weights, ``float32 shape``; None where they are unknown, as in a model.
    """

    name: str
    shape: tuple[int, ...]
    constant: float
    init: str = SIGNED_CONSTANT
    sha256: str = ""
    values: Floats | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _checked_tensor(self.name, self.shape))
        check_choice(f"network: init of {self.name!r:.200}", self.init, INITS, error=BankError)
        check_number(
            f"network: constant of {self.name!r:.200}",
            self.constant,
            lambda c: _MIN_CONSTANT <= c <= _MAX_CONSTANT,
            "finite and positive in float32",
            error=BankError,
        )
        object.__setattr__(self, "constant", as_number(self.constant))
        if self.init != SIGNED_CONSTANT and self.constant != 1:
            raise BankError(
                f"network: constant of {self.name!r} must be 1 with init {self.init!r}, "
                f"got {self.constant}"
            )
        check_kind(f"network: sha256 of {self.name!r}", self.sha256, str, "text", error=BankError)
        if bool(_SHA256.fullmatch(self.sha256)) != (self.init == STORED):
            raise BankError(
                f"network: sha256 of {self.name!r} must be hexadecimal with init {STORED!r}, and "
                f"empty with others, got {self.sha256!r:.80} with {self.init!r}"
            )

    @classmethod
    def stored(cls, name: str, values: Floats) -> MaskedParameter:
        """Return a parameter with weights of its own, ``float32 shape``, finite."""
        shape = _checked_tensor(name, values.shape)
        check_array(values, np.float32, shape, place=f"network: weights of {name!r:.200}")
        return cls(
            name=name, shape=shape, constant=1.0, init=STORED, sha256=_sha256(values), values=values
        )

    def with_values(self, values: Floats, place: str) -> MaskedParameter:
        """Return this parameter with its stored weights, read from `place`."""
        check_array(values, np.float32, self.shape, place=f"{place}: {self.name!r}")
        if (got := _sha256(values)) != self.sha256:
            raise BankError(
                f"{place}: the weights of {self.name!r} were changed: SHA-256 must be "
                f"{self.sha256}, got {got}; restore the file"
            )
        return replace(self, values=values)

    @classmethod
    def ones(cls, name: str, shape: tuple[int, ...]) -> MaskedParameter:
        """Return a parameter whose weights are 1, such as scales of units."""
        return cls(name=name, shape=shape, constant=1.0, init=ONES)

    @classmethod
    def signed_kaiming(cls, name: str, shape: tuple[int, ...]) -> MaskedParameter:
        """Return a parameter with the paper's weights ``+-sqrt(2 / fan_in)``."""
        constant = kaiming_constant(_checked_tensor(name, shape))
        return cls(name=name, shape=shape, constant=constant)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def signs(self, weight_seed: int, index: int) -> Bytes:
        """Return the packed signs, as `sign_plane`; all plus for ``ones``, minus for ``stored``.

        Args:
            weight_seed: Seed of the network.
            index: Position in the network.
        """
        if self.init != SIGNED_CONSTANT:
            return pack_mask(np.full(self.size, self.init == ONES))
        return sign_plane(weight_seed, index, self.size)

    def weight(self, weight_seed: int, index: int) -> Floats:
        """Return the weights, ``float32 shape``; see `signs`."""
        if self.init == ONES:
            return np.ones(self.shape, np.float32)
        if self.init == STORED:
            if self.values is None:
                raise BankError(f"network: weights of {self.name!r} are in its bank alone; open it")
            return self.values
        return seeded_weight(weight_seed, index, self.shape, self.constant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The fixed random network that all tasks of a bank share.

    Attributes:
        weight_seed: In ``[0, 2**64)``; see `seeded_weight`.
        input_shape: Shape of one input, without the batch.
        outputs: Length of the logits (`s` in the paper).
        real_outputs: Leading outputs that are labels; the rest are superfluous.
        parameters: Masked parameters, in the order of a flat mask; required unless there is state.
        state: State tensors, in order.
        constants: Hexadecimal SHA-256 of all other tensors, by which training refuses another
            module; may be empty.
        preprocessing: From pictures to inputs, of shape `input_shape` or flat; None if inputs are
            arrays that users prepare.
        state_dtype: ``float32``, or ``float16`` to store the state so; it is read as ``float32``.

    Raises:
        BankError: If a value is out of range, or a name repeats.
    """

    weight_seed: int
    input_shape: tuple[int, ...]
    outputs: int
    real_outputs: int
    parameters: tuple[MaskedParameter, ...]
    state: tuple[StateTensor, ...] = field(default=())
    constants: str = ""
    preprocessing: Preprocessing | None = None
    state_dtype: str = STATE_DTYPES[0]

    def __post_init__(self) -> None:
        for name, least, most in (("weight_seed", 0, MAX_SEED), ("outputs", 1, MAX_OUTPUTS)):
            value = checked_whole(
                f"network: {name}", getattr(self, name), least, most, error=BankError
            )
            object.__setattr__(self, name, value)
        value = checked_whole(
            "network: real_outputs", self.real_outputs, 1, self.outputs, error=BankError
        )
        object.__setattr__(self, "real_outputs", value)
        object.__setattr__(self, "input_shape", _checked_shape("input_shape", self.input_shape))
        self._check_preprocessing()
        check_choice("network: state_dtype", self.state_dtype, STATE_DTYPES, error=BankError)
        for kind, tensors, of in (
            ("parameters", self.parameters, MaskedParameter),
            ("state", self.state, StateTensor),
        ):
            check_kind(f"network: {kind}", tensors, (tuple, list), "a tuple", error=BankError)
            if len(tensors) > MAX_TENSORS:
                raise BankError(f"network: at most {MAX_TENSORS} {kind}, got {len(tensors)}")
            for tensor in tensors:
                check_kind(f"network: each of {kind}", tensor, of, of.__name__, error=BankError)
        check_kind("network: constants", self.constants, str, "text", error=BankError)
        if not self.parameters and not self.state:
            raise BankError("network: must have a masked parameter or a state tensor, got neither")
        names = [p.name for p in self.parameters] + [s.name for s in self.state]
        twice, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise BankError(f"network: names must be unique, got {twice!r:.200} twice")
        if max(self.num_masked, self.num_state) > MAX_ELEMENTS:
            raise BankError(
                f"network: at most {MAX_ELEMENTS} masked weights and as many of state, "
                f"got {self.num_masked} and {self.num_state}"
            )

    def _check_preprocessing(self) -> None:
        if (steps := self.preprocessing) is None:
            return
        check_kind("network: preprocessing", steps, Preprocessing, "steps", error=BankError)
        shape = steps.output_shape
        if self.input_shape not in {shape, (math.prod(shape),)}:
            raise BankError(
                f"network: input_shape must be {shape}, as preprocessing makes it, or flat, "
                f"got {self.input_shape}"
            )

    def __repr__(self) -> str:
        outputs = f"{self.outputs} outputs ({self.real_outputs} real)"
        masked = f"{self.num_masked:,} masked weights in {len(self.parameters)} parameters"
        state = f"{self.num_state:,} elements of state" if self.state else ""
        return about(self, f"from {shown(self.input_shape)} to {outputs}", masked, state)

    @property
    def num_masked(self) -> int:
        """Number of masked weights (`P`)."""
        return sum(parameter.size for parameter in self.parameters)

    @property
    def num_state(self) -> int:
        """State elements per task."""
        return sum(tensor.size for tensor in self.state)

    @property
    def stored(self) -> tuple[MaskedParameter, ...]:
        """Masked parameters with weights of their own."""
        return tuple(p for p in self.parameters if p.init == STORED)

    @property
    def newer(self) -> list[str]:
        """What it has that a bank of format 1 cannot have."""
        found = {
            "preprocessing": self.preprocessing is not None,
            "state_dtype": self.state_dtype != STATE_DTYPES[0],
            f"init {STORED!r}": bool(self.stored),
        }
        return [name for name, there in found.items() if there]

    @property
    def superfluous_outputs(self) -> int:
        """Number of outputs that are not labels."""
        return self.outputs - self.real_outputs

    def real_outputs_of(self, labels: Sequence[str]) -> int:
        """Return how many outputs are labels of a task with these labels; all if it has none."""
        return len(labels) or self.real_outputs

    def weights(self) -> list[Floats]:
        """Return the fixed weights, one array per masked parameter."""
        return [p.weight(self.weight_seed, index) for index, p in enumerate(self.parameters)]

    def digest(self, forward: bytes) -> str:
        """Return the hexadecimal SHA-256 of description and forward program."""
        text = canonical_json(
            {"forward": hashlib.sha256(forward).hexdigest(), "network": self.to_dict()}
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the ``network`` object of bank.json (docs/FORMAT.md)."""
        value = {
            "constants": self.constants,
            "input_shape": list(self.input_shape),
            "outputs": self.outputs,
            "parameters": list(map(_described, self.parameters)),
            "real_outputs": self.real_outputs,
            "state": [{"name": s.name, "shape": list(s.shape)} for s in self.state],
            "weight_seed": self.weight_seed,
        }
        if self.preprocessing is not None:
            value["preprocessing"] = self.preprocessing.to_dict()
        if self.state_dtype != STATE_DTYPES[0]:
            value["state_dtype"] = self.state_dtype
        return value

    @classmethod
    def from_dict(cls, value: object) -> Network:
        """Invert `to_dict`.

        Raises:
            BankError: If a field is missing, unknown or invalid.
        """
        found = Fields(value, _FIELDS, "network", optional={"preprocessing", "state_dtype"})
        if found.value.get("state_dtype") == STATE_DTYPES[0]:
            raise BankError(f"network: state_dtype must be left out for {STATE_DTYPES[0]}")
        return cls(
            weight_seed=found.get("weight_seed", int),
            input_shape=found.shape("input_shape"),
            outputs=found.get("outputs", int),
            real_outputs=found.get("real_outputs", int),
            parameters=tuple(map(_parameter, found.items("parameters"))),
            state=tuple(map(_state, found.items("state"))),
            constants=found.get("constants", str),
            preprocessing=_preprocessing(found),
            state_dtype=found.value.get("state_dtype", STATE_DTYPES[0]),
        )


def _preprocessing(found: Fields) -> Preprocessing | None:
    if "preprocessing" not in found.value:
        return None
    try:
        return Preprocessing.from_dict(found["preprocessing"])
    except InputError as error:
        raise BankError(f"network: {error}") from error


def _described(p: MaskedParameter) -> dict[str, Any]:
    value = {"constant": p.constant, "init": p.init, "name": p.name, "shape": list(p.shape)}
    return {**value, "sha256": p.sha256} if p.init == STORED else value


def _sha256(values: Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").data).hexdigest()


def _parameter(value: object) -> MaskedParameter:
    names, stored = {"constant", "init", "name", "shape"}, {"sha256"}
    own = isinstance(value, dict) and value.get("init") == STORED
    found = Fields(value, names | stored if own else names, "network: parameter")
    return MaskedParameter(
        name=found.get("name", str),
        shape=found.shape("shape"),
        constant=found.get("constant", float),
        init=found.get("init", str),
        sha256=found.get("sha256", str) if own else "",
    )


def _state(value: object) -> StateTensor:
    found = Fields(value, {"name", "shape"}, "network: state")
    return StateTensor(name=found.get("name", str), shape=found.shape("shape"))


def _checked_tensor(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    check_kind("network: a tensor's name", name, str, "Unicode text", error=BankError)
    if not name:
        raise BankError("network: a tensor's name must not be empty")
    if not is_unicode(name):
        raise BankError(f"network: a tensor's name must be Unicode text, got {name!a:.200}")
    return _checked_shape(f"shape of {name!r:.200}", shape, least=1)


def _checked_shape(what: str, shape: tuple[int, ...], *, least: int = 0) -> tuple[int, ...]:
    """Check rank and sizes before their product: integers of a file can be huge."""
    ranked = isinstance(shape, tuple | list) and least <= len(shape) <= MAX_RANK
    sizes = [int(n) for n in shape if is_whole(n) and 1 <= n <= MAX_ELEMENTS] if ranked else []
    if not ranked or len(sizes) < len(shape) or math.prod(sizes) > MAX_ELEMENTS:
        raise BankError(
            f"network: {what} must be positive, with {least} to {MAX_RANK} sizes and at most "
            f"{MAX_ELEMENTS} elements, got {shown(shape)}"
        )
    return tuple(sizes)
