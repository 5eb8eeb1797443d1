"""Ternary weights, ``-c``, ``0`` or ``+c``, in two bits each, and their use in a graph.

A code is the sign plus 2, the zero point of MatMulNBits for two bits; a byte holds four, the least
significant first.

- `product`: MatMulNBits with int8 activations (`accuracy_level` 4). FC 1024-1024 takes 0.4 times as
  long as with float32 weights; with float32 activations (0 and 1), 30 times (batch 1, one thread of
  an AMD EPYC with AVX-512, onnxruntime 1.32).
- `floats`: a lookup that ONNX Runtime folds to float32 at load, for convolutions and other uses.
  MatMulNBits over gathered patches took 4 to 8 times as long as Conv (3 x 3, 32 to 64 channels of
  32 x 32, and 128 to 128 of 16 x 16).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from supsup_export.graph import INT32, Graph
from supsup_runtime.arrays import Bits, Bytes, Floats
from supsup_runtime.errors import BankError

BLOCKS = (128, 64, 32)
"""Blocks with an int8 kernel in ONNX Runtime 1.32, fastest first; 16 and 256 fall back to
float32."""
_ZERO = 2
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)
_CODES = ((np.arange(256)[:, None] >> _SHIFTS) & 3).astype(np.float32) - _ZERO  # (byte, code)

Signs: TypeAlias = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ternary:
    """One masked weight.

    Attributes:
        name: Name of the parameter.
        signs: ``int8 shape``, each -1, 0 or 1.
        constant: Factor of the signs, ``float32 ()``.
    """

    name: str
    signs: Signs
    constant: np.float32


def ternary(name: str, weight: Floats, mask: Bits, constant: float) -> Ternary:
    """Return a weight of magnitude `constant` under a mask.

    Raises:
        BankError: If a weight has another magnitude.
    """
    magnitude = np.float32(constant)
    if not (np.abs(weight) == magnitude).all():
        raise BankError(
            f"network: weights of {name!r} must all be +-{magnitude} to fit two bits; "
            "export with --bits 32"
        )
    signs = np.where(mask, np.sign(weight), 0).astype(np.int8)
    return Ternary(name=name, signs=signs, constant=magnitude)


def block_size(columns: int) -> int:
    """Return the widest block that pads rows to at most 1.2 times the shortest possible."""
    least = min(_padded(columns, block) for block in BLOCKS)
    return next(block for block in BLOCKS if 5 * _padded(columns, block) <= 6 * least)


def _padded(columns: int, block: int) -> int:
    return -(-columns // block) * block


def pack_codes(signs: Signs, block: int) -> Bytes:
    """Pack signs for MatMulNBits, `block` codes per block, a multiple of 4.

    From ``int8 (rows, columns)`` to ``uint8 (rows, ceil(columns / block), block / 4)``; padding is
    zero.
    """
    rows, columns = signs.shape
    blocks = -(-columns // block)
    codes = np.full((rows, blocks * block), _ZERO, np.uint8)
    codes[:, :columns] += signs.view(np.uint8)  # -1 is 255, and 2 + 255 wraps to 1
    shifted = codes.reshape(rows, blocks, block // 4, 4) << _SHIFTS
    packed: Bytes = np.bitwise_or.reduce(shifted, axis=-1)
    return packed


def unpack_codes(packed: Bytes, columns: int) -> Signs:
    """Invert `pack_codes`: ``uint8 (rows, blocks, bytes)`` to ``int8 (rows, columns)``."""
    codes = (packed[..., None] >> _SHIFTS) & 3  # (rows, blocks, bytes, 4)
    return codes.reshape(len(packed), -1)[:, :columns].astype(np.int8) - np.int8(_ZERO)


def product(graph: Graph, left: str, weight: Ternary, *, transposed: bool) -> tuple[str, str]:
    """Append ``left @ weight.T`` as MatMulNBits; scales are made at load.

    `left` is ``float32 (..., columns)``, `weight` ``(rows, columns)``, or ``(columns, rows)`` if
    `transposed`.

    Returns:
        Product ``float32 (..., rows)``, and initializer of the codes.
    """
    signs = weight.signs.T if transposed else weight.signs
    rows, columns = signs.shape
    block = block_size(columns)
    codes = graph.constant(pack_codes(signs, block), f"codes.{weight.name}")
    scales = graph.op(
        "Expand",
        graph.constant(weight.constant.reshape(1)),
        graph.ints(rows * -(-columns // block)),
    )
    return graph.matmul_nbits(left, codes, scales, (rows, columns), bits=2, block=block), codes


def floats(graph: Graph, weight: Ternary) -> str:
    """Return a weight as ``float32 shape``, unpacked at load."""
    flat = weight.signs.reshape(1, -1)
    packed = pack_codes(flat, 4).reshape(-1)
    codes = graph.constant(packed, f"codes.{weight.name}")
    index = graph.op("Cast", codes, to=INT32)
    signs = graph.op("Gather", graph.constant(_CODES, "signs_of_codes"), index)
    if flat.size % 4:
        signs = graph.reshape(signs, [-1])
        signs = graph.op("Slice", signs, *map(graph.ints, (0, flat.size, 0)))
    scaled = graph.op("Mul", signs, graph.constant(weight.constant))
    return graph.reshape(scaled, weight.signs.shape)
