"""Pickles of plain data: tables, lists, texts, numbers, arrays. Nothing that they name is called.

Python's own unpickler in Python reads them, with the opcodes that such data need and no others.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from supsup_runtime.arrays import Bytes
from supsup_runtime.errors import DataError
from supsup_runtime.files import regular_file

MAX_FILE_BYTES = 1 << 28
"""Largest file: 256 MiB; those of CIFAR have up to 155 MB."""
MAX_READS = 1 << 20
"""Reads of a file, each of an opcode or what belongs to it; those of CIFAR take up to 550,000."""
AGAIN = "remove the folder, then download it again"
"""What helps; a download leaves a folder with all files as it is."""
_MAX_NAME = 100
_BYTES = object()
"""The dtype of an array of bytes."""
_ARRAY, _DTYPE, _ENCODE = "_reconstruct", "dtype", "encode"
_NAMED = {
    *(("numpy.core.multiarray", _ARRAY), ("numpy._core.multiarray", _ARRAY)),
    *(("numpy", "ndarray"), ("numpy", _DTYPE), ("_codecs", _ENCODE)),
}
"""What a file may name. Each is a text here, which cannot be called."""
_PLAIN = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
    *(pickle.BINBYTES, pickle.BINBYTES8, pickle.SHORT_BINBYTES),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL),
)
"""Opcodes that make no other objects than plain ones."""


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a table from a file.

    Returns:
        Values by name: lists, tuples, numbers, ``bytes`` (texts of Python 2 too), ``str``, tables,
        and arrays, which are ``uint8``.

    Raises:
        DataError: If the file is missing, too large, or holds anything else.
    """
    with regular_file(path, links=True, error=DataError, missing=f"missing; {AGAIN}") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path}: must have at most {MAX_FILE_BYTES} bytes, got {size}")
        try:
            return _Reader(file, size).table()
        except Exception as error:  # damaged pickles raise errors of any kind
            kind = "opcode" if isinstance(error, KeyError) else type(error).__name__
            reason = " ".join(f"{kind} {error}".removeprefix("UnpicklingError ").split())
            raise DataError(
                f"{path}: must be a pickle of plain data, as CIFAR has them ({reason:.200}); "
                f"{AGAIN}"
            ) from error


class _Bounded:
    """A file that is read in a bounded number of steps."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self._reads = 0

    def read(self, count: int) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS:
            raise pickle.UnpicklingError(f"it has more than {MAX_READS} pieces")
        data = self._file.read(min(count, self._size))  # a file makes room for all that is asked
        if len(data) < count:
            raise pickle.UnpicklingError("it is truncated")
        return data

    def readline(self) -> bytes:
        return self._file.readline(_MAX_NAME)


class _Table(dict[str, Any]):
    """A table by texts; other keys could take for ever to hash, long ones fill memory."""

    def __setitem__(self, key: object, value: object) -> None:
        if not isinstance(key, bytes | str) or len(key) > _MAX_NAME:
            kind = type(key).__name__
            raise pickle.UnpicklingError(
                f"a table has a key of type {kind}, not a text of at most {_MAX_NAME} characters"
            )
        super().__setitem__(key.decode("latin-1") if isinstance(key, bytes) else key, value)


class _Array:
    """What becomes an array once it has a state."""

    state: Any = None

    def filled(self) -> Bytes:
        _, shape, dtype, columns_first, data = self.state
        if dtype is not _BYTES or columns_first:
            raise pickle.UnpicklingError("an array is not of bytes, row by row")
        return np.frombuffer(data, np.uint8).reshape(shape)


class _Reader(pickle._Unpickler):  # noqa: SLF001 - whose opcodes can be chosen
    """Reads what `_PLAIN` makes, tables and arrays."""

    read: Callable[[int], bytes]
    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]]  # noqa: SLF001 - as above
        for code in _PLAIN
    }

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(_Bounded(file, size), encoding="bytes")
        self._to_encode = size

    def table(self) -> dict[str, Any]:
        found = self.load()
        if not isinstance(found, _Table):
            raise pickle.UnpicklingError(f"it has a {type(found).__name__}, not a table")
        return {k: v.filled() if isinstance(v, _Array) else v for k, v in found.items()}

    def find_class(self, module: str, name: str) -> str:
        if (module, name) not in _NAMED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return name

    def load_frame(self) -> None:
        self.read(8)

    def load_table(self) -> None:
        self.stack.append(_Table())

    def load_reduce(self) -> None:
        """Do what a name stands for, which may as well be a text."""
        args, name = self.stack.pop(), self.stack.pop()
        first = args[0] if type(args) is tuple and 0 < len(args) <= 3 else None
        if name == _ARRAY and first is not None:
            made: object = _Array()
        elif name == _DTYPE and isinstance(first, str | bytes) and first in {"u1", b"u1"}:
            made = _BYTES
        elif name == _ENCODE and isinstance(first, str) and len(first) <= self._to_encode:
            self._to_encode -= len(first)  # each text once, not the same again and again
            made = first.encode("latin-1")
        else:
            raise pickle.UnpicklingError("it makes another object than an array of bytes")
        self.stack.append(made)

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Array):
            made.state = state
        elif made is not _BYTES:
            raise pickle.UnpicklingError(f"it builds a {type(made).__name__}")

    dispatch |= {
        pickle.FRAME[0]: load_frame,
        pickle.EMPTY_DICT[0]: load_table,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
    }
