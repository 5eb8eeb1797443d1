"""Mutations of bytes, numbers, text and JSON, all from a `Random`: a seed makes each again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
Mutation = Callable[[Random, bytes], bytes]

INTEGERS = (0, 1, -1, 2, 255, 256, 2**31 - 1, 2**31, 2**33, 2**53 + 1, 2**63, 2**64, 10**30)
_DEPTHS = (50, 500, 100_000)
_RAW = (
    *("NaN", "-Infinity", "1e999", "-0.0", "1.0", "1e-320", "9" * 4299, "1" * 5000),
    *("[" * depth + "]" * depth for depth in _DEPTHS),
    *('{"a":' * depth + "1" + "}" * depth for depth in _DEPTHS),
)
"""What no value of Python is written as; stands in a tree by its number, as ``@raw3@``."""
_TEXTS = (
    *("", " ", ".", "..", "/etc/passwd", "../outside/secret", "a/../../outside", "con", "é" * 40),
    *("\x1b[31mred\x1b[0m", "two\nlines", "\x00", "\ud800", "a" * 70_000, "%s%n", "\u202egnp"),
)


def choice(rng: Random, weighted: Sequence[tuple[float, T]]) -> T:
    """Choose one by its weight."""
    return rng.choices([item for _, item in weighted], [weight for weight, _ in weighted])[0]


def bytes_of(rng: Random, data: bytes) -> bytes:
    """Change a few bytes, or cut, double or move a part."""
    changed = bytearray(data)
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + 1 + int(rng.expovariate(1 / 20)))
    match rng.randrange(7):
        case 0:
            del changed[at:end]
        case 1:
            changed[at:at] = data[at:end]
        case 2:
            changed[at:end] = rng.randbytes(end - at)
        case 3:
            changed[at:end] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))]) * (end - at)
        case 4:
            del changed[at:]
        case 5:
            changed += rng.randbytes(rng.choice((1, 8, 100)))
        case _:
            for _ in range(rng.choice((1, 1, 2, 5))):
                flip(rng, changed)
    return bytes(changed)


def flip(rng: Random, changed: bytearray) -> None:
    """Flip one bit, in place."""
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)


def integer(rng: Random, value: int) -> int:
    """Another integer: a neighbour, or one at a border."""
    return rng.choice((value + 1, value - 1, value * 2, -value, rng.choice(INTEGERS)))


def text(rng: Random, value: str) -> str:
    """Another text: odd, or the same with a change."""
    if not value or rng.random() < 0.5:
        return rng.choice(_TEXTS)
    at = rng.randrange(len(value))
    return value[:at] + rng.choice(("", "0", "f", "A", " ", "\n", "\x1b", value)) + value[at + 1 :]


def json_of(rng: Random, data: bytes) -> bytes:
    """Change a value, key or list of a JSON text, now and then its encoding."""
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        tree = changed_value(rng, tree)
    return encoded(rng, dumped(tree))


def changed_value(rng: Random, tree: Any) -> Any:  # noqa: ANN401 - any JSON
    """Change one node of a JSON tree, any with the same chance; the tree may be changed itself."""
    places: list[tuple[Any, Any]] = []
    _collect(tree, places)
    if not places:
        return _other(rng, tree)
    holder, key = rng.choice(places)
    how = rng.random()
    if how < 0.1:
        del holder[key]
    elif how < 0.15 and isinstance(holder, list):
        holder.insert(key, holder[rng.randrange(len(holder))])
    elif how < 0.2 and isinstance(holder, dict):
        holder[text(rng, key)] = holder.pop(key) if rng.random() < 0.5 else holder[key]
    elif how < 0.3:
        other, name = rng.choice(places)
        holder[key] = deepcopy(other[name])
    else:
        holder[key] = _other(rng, holder[key])
    return tree


def _collect(tree: Any, places: list[tuple[Any, Any]]) -> None:  # noqa: ANN401 - any JSON
    if not isinstance(tree, dict | list):
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        places.append((tree, key))
        _collect(value, places)


def _other(rng: Random, value: Any) -> Any:  # noqa: ANN401 - any JSON
    odd: tuple[Any, ...] = (
        None,
        True,
        [],
        {},
        [[]],
        [value],
        {"a": value},
        f"@raw{rng.randrange(len(_RAW))}@",
    )
    if rng.random() < 0.2:
        return rng.choice((*odd, odd[-1]))
    if isinstance(value, str):
        return text(rng, value)
    if isinstance(value, bool) or value is None:
        return rng.choice((0, 1, 0.5, "", not value))
    if isinstance(value, int):
        return rng.choice((integer(rng, value), integer(rng, value), float(value)))
    if isinstance(value, float):
        return rng.choice((value * 2, -value, 1e308, 5e-324, 1e39, 0.0, int(value)))
    return rng.choice((0, 1.5, "", None, list(value) * 2, dict.fromkeys(map(str, value), 1)))


def dumped(tree: object) -> bytes:
    """Write JSON as the format does, and `_RAW` as it is."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    for number, raw in enumerate(_RAW):
        text = text.replace(f'"@raw{number}@"', raw)
    return text.encode()


def encoded(rng: Random, data: bytes) -> bytes:
    """The same JSON, now and then in another encoding or with a key twice."""
    how = rng.random()
    if how < 0.02:
        return data.decode().encode(rng.choice(("utf-16", "utf-32-le", "utf-8-sig")))
    if how < 0.04 and data[:2] == b'{"':
        return b"{" + data[1:].split(b",", 1)[0] + b"," + data[1:]
    if how < 0.06:
        return bytes_of(rng, data)
    return data
