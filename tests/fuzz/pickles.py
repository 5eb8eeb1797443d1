"""Mutations of pickles, opcode by opcode."""

from __future__ import annotations

import pickletools
from itertools import pairwise
from random import Random

from fuzz.mutate import bytes_of, choice, flip

_ODD = (
    *(b"(", b")", b"]", b"}", b".", b"0", b"2", b"1", b"e", b"a", b"u", b"s", b"t", b"R", b"b"),
    *(b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93"),
    *(
        b"\x94",
        b"\x97",
        b"\x98",
        b"N",
        b"K\x01",
        b"U\x01a",
        b"T\xff\xff\xff\x7f",
        b"T\xff\xff\xff\xff",
    ),
    *(b"\x8e" + 7 * b"\xff" + b"\x7f", b"\x8d" + 8 * b"\xff", b"r\xff\xff\xff\xff", b"q\x00h\x00"),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"c_codecs\nencode\n", b"c_codecs\ndecode\n"),
    *(b"cnumpy\ndtype\n", b"cnumpy\nload\n", b"cnumpy.core.multiarray\n_reconstruct\n"),
    *(b"U\x02O8", b"\x82\x01", b"P1\n", b"Q", b"(i__builtin__\nlist\n", b"I01\n", b"F1e999\n"),
    *(b"\x8a\xff" + 255 * b"\x7f", b"L" + 5000 * b"9" + b"L\n", b"c" + 1000 * b"a" + b"\nb\n"),
    *(1000 * b"(", 1000 * b"]", 100 * b"q\x05h\x05\x86", 1000 * b"h\x05"),
)
"""Opcodes that have no business there, and lengths that lie."""


def pickle_of(rng: Random, data: bytes) -> bytes:
    """Change a few opcodes of a pickle, or now and then its bytes."""
    if rng.random() < 0.1:
        return bytes_of(rng, data)
    begins = [place or 0 for _, _, place in pickletools.genops(data)]
    ops = [data[begin:end] for begin, end in pairwise((*begins, len(data)))]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(ops))
        how = choice(rng, ((4, "argument"), (2, "odd"), (1, "insert"), (1, "leave"), (1, "repeat")))
        if how == "argument":
            changed = bytearray(ops[at][1:])
            flip(rng, changed)
            ops[at] = ops[at][:1] + bytes(changed)
        elif how == "odd":
            ops[at] = rng.choice(_ODD)
        elif how == "insert":
            ops.insert(at, rng.choice(_ODD))
        elif how == "leave" and len(ops) > 1:
            del ops[at]
        else:
            other = rng.randrange(len(ops))
            ops[at:at] = ops[other : other + rng.choice((1, 3, 30))]
    return b"".join(ops)
