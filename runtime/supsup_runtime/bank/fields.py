"""Strict JSON from files, and its objects checked for fields and types."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeGuard, TypeVar

from supsup_runtime.errors import BankError

MAX_VALUES = 1 << 20
"""Commas and opening brackets of one JSON text, those in strings included."""
MAX_DEPTH = 100
"""Nesting of one JSON text."""


def parse_json(data: bytes | str, prefix: str = "") -> Any:  # noqa: ANN401 - whatever JSON holds
    """Parse strict JSON of bounded size (docs/FORMAT.md, "JSON"), or raise `BankError`."""
    try:
        return _parsed(data if isinstance(data, str) else data.decode())
    except (ValueError, RecursionError) as error:  # ValueError: or over 4300 digits
        raise BankError(f"{prefix}must be JSON: {error!s:.200}") from error


def _parsed(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    brackets = text.count("[") + text.count("{")
    if brackets + text.count(",") > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    value = _DECODER.decode(text)
    if brackets > MAX_DEPTH and _is_deep(value):
        raise ValueError(f"nested more than {MAX_DEPTH} times")
    return value


def _is_deep(value: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    level, depth = [value], 0
    while level and depth < MAX_DEPTH:
        inner = [item.values() if isinstance(item, dict) else item for item in level]
        level = [child for items in inner for child in items if isinstance(child, dict | list)]
        depth += 1
    return bool(level)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # NaN, Infinity, 1e999
        raise ValueError(f"{text:.20} is not finite")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def is_unicode(text: str) -> bool:
    """Return whether text can be UTF-8; JSON may have lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def strings(value: object, names: Collection[str], what: str) -> dict[str, str]:
    """Return an object of exactly these string fields, or raise `BankError`."""
    texts = value if isinstance(value, dict) else {}
    if set(texts) != set(names) or not all(isinstance(text, str) for text in texts.values()):
        raise BankError(f"{what} must have the strings {sorted(names)}, got {value!r:.80}")
    return texts


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a JSON value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether a JSON value is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


T = TypeVar("T", int, float, str, dict[str, Any])
_KINDS = {int: "an integer", float: "a number", str: "a string", dict: "an object"}


class Fields:
    """A JSON object with exactly the given fields; violations raise `BankError`."""

    def __init__(
        self,
        value: object,
        names: Collection[str],
        place: str = "",
        *,
        optional: Collection[str] = (),
    ) -> None:
        """Accept `names` and any `optional` fields."""
        self._prefix = f"{place}: " if place else ""
        if not isinstance(value, Mapping) or set(value) - set(optional) != set(names):
            got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise BankError(f"{self._prefix}fields must be {sorted(names)}, got {got!s:.200}")
        self.value = value

    @classmethod
    def of_file(
        cls,
        value: object,
        formats: Mapping[int, Collection[str]],
        *,
        kind: str,
        digest: str | None = None,
        place: str = "",
    ) -> Fields:
        """Check the top-level object of a file, with its ``format`` and ``digest``.

        `formats` has the fields of each format. Messages call the content `kind` and the file
        `place`.
        """
        prefix = f"{place}: " if place else ""
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        if not is_integer(found) or found not in formats:
            raise BankError(
                f"{prefix}{kind} format must be {' or '.join(map(str, formats))}, got "
                f"{found!r:.80}; a newer supsup may read it"
            )
        fields = cls(value, formats[found], place)
        if digest is not None and fields["digest"] != digest:
            raise BankError(
                f"{prefix}the {kind} belongs to another network: digest must be {digest}, "
                f"got {fields['digest']!r:.80}"
            )
        return fields

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        return self.value[name]

    def get(self, name: str, kind: type[T]) -> T:
        """Return a field of a type, not a boolean; an integer counts as a float.

        Raises:
            OverflowError: If no float holds the number.
        """
        value = self[name]
        allowed = (int, float) if kind is float else kind
        if isinstance(value, bool) or not isinstance(value, allowed):
            self._refuse(name, _KINDS[kind])
        return kind(value)

    def items(self, name: str, *, least: int = 0, most: int | None = None) -> list[Any]:
        """Return a list of `least` to `most` items."""
        value = self[name]
        if not isinstance(value, list) or not least <= len(value) <= (most or len(value)):
            self._refuse(name, f"a list of {least} to {most}" if most else "a list")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a list of integers as a tuple."""
        sizes = self.items(name)
        if not all(map(is_integer, sizes)):
            self._refuse(name, "a list of integers")
        return tuple(sizes)

    def _refuse(self, name: str, rule: str) -> NoReturn:
        raise BankError(f"{self._prefix}{name} must be {rule}, got {self[name]!r:.80}")
