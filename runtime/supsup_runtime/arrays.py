"""Array types, and checks of arguments, network inputs and outputs."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from supsup_runtime.errors import InputError, SupSupError

Array: TypeAlias = npt.NDArray[Any]
Bits: TypeAlias = npt.NDArray[np.bool_]
"""Unpacked masks."""
Bytes: TypeAlias = npt.NDArray[np.uint8]
"""Packed masks."""
Floats: TypeAlias = npt.NDArray[np.float32]
Images: TypeAlias = npt.NDArray[np.float32]
"""A batch, ``(batch, *input_shape)``."""
Given: TypeAlias = Images | Bytes | Sequence[Bytes]
"""What a model is given: a ready batch, or pictures (docs/DATA.md)."""
Labels: TypeAlias = npt.NDArray[np.int64]
"""One class per image, ``(images,)``."""
Reals: TypeAlias = npt.NDArray[np.floating]
"""Floats of any width."""
Scores: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = npt.NDArray[np.uint8 | np.float32]
"""Images or feature vectors as a data set stores them."""
Refusal: TypeAlias = type[SupSupError]
"""The error that a check raises."""
MAX_THREADS = 1024
_MAX_SHOWN = 80


def checked_images(x: Images, input_shape: tuple[int, ...]) -> Images:
    """Return a batch as C-contiguous ``float32 (batch, *input_shape)``.

    Raises:
        InputError: If dtype or shape differ, a value is not finite, or there is no row.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        kind = getattr(x, "dtype", type(x).__name__)
        raise InputError(f"x must be a float32 array, got {kind}; use x.astype(numpy.float32)")
    if x.shape[1:] != input_shape or x.ndim == 0 or len(x) == 0:
        raise InputError(
            f"x must have shape (batch, {', '.join(map(str, input_shape))}) with batch >= 1, "
            f"got {x.shape}"
        )
    try:
        x = np.ascontiguousarray(x)
    except MemoryError as error:
        raise InputError(f"x: {x.shape} does not fit in memory; take fewer rows") from error
    if not _finite(x):
        raise InputError(f"x must be finite, got NaN or infinity in row {_bad_row(x)}")
    return x


def checked_outputs(values: Floats, kind: str, place: str, *, rows: Labels | None = None) -> Floats:
    """Return a model's outputs, or raise `InputError` if they are not finite.

    Messages call them `kind` and the model `place`; `rows` are their batch rows, None all.
    """
    if _finite(values):
        return values
    where = "for the batch"
    if values.ndim > 1:
        row = _bad_row(values)
        where = f"in row {row if rows is None else rows[row]}"
    raise InputError(
        f"{place}: {kind} are not finite {where}: x is too large; normalise it as in training"
    )


def shown(value: object) -> str:
    """Return a value for a message: on one line, cut, and whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - nested too deep, or an integer of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def few(names: Sequence[str]) -> str:
    """Return the first three names as `shown`."""
    return ", ".join([*map(shown, names[:3]), *["..."] * (len(names) > 3)])


def about(thing: object, *facts: str) -> str:
    """Return the `repr` of an object: its class and facts, each `shown` or short."""
    return f"<{type(thing).__name__} {', '.join(fact for fact in facts if fact)}>"


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is an integer, numpy's included, and no boolean."""
    kinds = int | np.integer
    return isinstance(value, kinds) and not isinstance(value, bool | np.timedelta64)


def checked_whole(
    name: str, value: object, least: int, most: int | None = None, *, error: Refusal = InputError
) -> int:
    """Return an integer of at least `least` and at most `most`, by default of any array's size."""
    if not is_whole(value) or not least <= value <= (most or sys.maxsize):
        rule = f"of at least {least}" if most is None else f"in [{least}, {most}]"
        raise error(f"{name} must be an integer {rule}, got {shown(value)}")
    return int(value)


def checked_index(name: str, value: object, count: int, *, error: Refusal = InputError) -> int:
    """Return an index of one of `count` things; negative ones are refused."""
    if not is_whole(value):
        raise error(f"{name} must be an integer in [0, {count}), got {shown(value)}")
    if not 0 <= value < count:
        raise error(f"{name} must be in [0, {count}), got {shown(value)}")
    return int(value)


def as_number(value: object) -> float:
    """Return a number, numpy's included, as a float; NaN if it is none or beyond all floats."""
    kinds = int | float | np.integer | np.floating
    if not isinstance(value, kinds) or isinstance(value, bool | np.timedelta64):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def check_number(
    name: str,
    value: object,
    fine: Callable[[float], bool],
    rule: str,
    *,
    error: Refusal = InputError,
) -> None:
    """Raise `error` unless a value is a number for which `fine` holds; it must not for NaN."""
    if not fine(as_number(value)):
        raise error(f"{name} must be {rule}, got {shown(value)}")


def check_choice(
    name: str, value: object, choices: Sequence[str], *, error: Refusal = InputError
) -> None:
    """Raise `error` unless a value is one of some texts."""
    if not isinstance(value, str) or value not in choices:
        raise error(f"{name} must be one of {', '.join(choices)}, got {shown(value)}")


def check_kind(
    name: str,
    value: object,
    kind: type | tuple[type, ...],
    rule: str,
    *,
    error: Refusal = InputError,
) -> None:
    """Raise `error` unless a value is of a kind, which the message calls `rule`."""
    if not isinstance(value, kind):
        raise error(f"{name} must be {rule}, got {shown(value)}")


def check_flag(name: str, value: object, *, error: Refusal = InputError) -> None:
    """Raise `error` unless a value is a boolean, numpy's included."""
    check_kind(name, value, (bool, np.bool_), "True or False", error=error)


def check_flags(**values: object) -> None:
    """Check flags by name; see `check_flag`."""
    for name, value in values.items():
        check_flag(name, value)


def check_sequence(name: str, value: object, rule: str = "a sequence, such as a list") -> None:
    """Raise `InputError` unless a value is a list, tuple or the like, or an array ``(n,)``."""
    is_array = isinstance(value, np.ndarray) and value.ndim == 1
    no_sequence = isinstance(value, str | bytes | bytearray | memoryview)
    if not is_array and (no_sequence or not isinstance(value, Sequence)):
        raise InputError(f"{name} must be {rule}, got {shown(value)}")


def checked_reals(name: str, value: object) -> Array:
    """Return real numbers or booleans as an array, as they are."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # uneven rows, tensors with gradients
        raise InputError(f"{name} must be real numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be real numbers, got {array.dtype}")
    return array


def checked_threads(value: object) -> int:
    """Return a number of threads in ``[1, MAX_THREADS]`` that the system lets start."""
    count = checked_whole("threads", value, 1, MAX_THREADS)
    done = threading.Event()
    waiting = [threading.Thread(target=done.wait) for _ in range(count - 1)]  # besides this one
    started = 0
    try:
        for thread in waiting:
            thread.start()
            started += 1
    except RuntimeError as error:  # ONNX Runtime would hang, OpenMP end the process
        raise InputError(
            f"threads: only {started + 1} of {count} can start; take fewer, or raise the limit "
            "of threads or memory"
        ) from error
    finally:
        done.set()
        for thread in waiting[:started]:
            thread.join()
    return count


def checked_path(value: object, *, error: Refusal = InputError) -> Path:
    """Return a path that the system can name."""
    named = isinstance(value, str | os.PathLike) and value != ""
    try:
        path = Path(value if named else None)  # type: ignore[arg-type]  # refused below
        named = b"\0" not in os.fsencode(path)
    except (TypeError, ValueError):
        named = False
    if not named:
        raise error(f"path must be a non-empty text or a pathlib.Path, got {shown(value)}")
    return path


def _finite(values: Floats) -> bool:
    # a finite sum of squares has finite terms; vdot takes a third of the time of isfinite
    # and, unlike dot, does not warn on overflow
    return math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


def _bad_row(values: Floats) -> int:
    return int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
