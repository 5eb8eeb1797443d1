"""JSON from a file, checked: exactly the fields that its format has, each of its type."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeGuard, TypeVar

from supsup_runtime.errors import BankError


def canonical_json(value: object) -> str:
    """JSON with sorted keys and nothing to choose: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def is_unicode(text: str) -> bool:
    """Whether a string can be written as UTF-8: JSON can smuggle in half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def strings(value: object, names: Collection[str], what: str) -> dict[str, str]:
    """An object of strings with exactly these fields.

    Raises:
        BankError: If it is none.
    """
    texts = value if isinstance(value, dict) else {}
    if set(texts) != set(names) or not all(isinstance(text, str) for text in texts.values()):
        raise BankError(f"{what} must have the strings {sorted(names)}, got {value!r:.80}")
    return texts


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from JSON is a number; true is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value from JSON is an integer; true is none."""
    return isinstance(value, int) and not isinstance(value, bool)


T = TypeVar("T", int, float, str, dict[str, Any])
_KINDS = {int: "an integer", float: "a number", str: "a string", dict: "an object"}


class Fields:
    """An object from JSON with exactly some fields, each given with its type checked.

    Attributes:
        value: The object itself, unchecked.

    Raises:
        BankError: If a field is missing, unknown or of another type.
    """

    def __init__(
        self,
        value: object,
        names: Collection[str],
        place: str = "",
        *,
        optional: Collection[str] = (),
    ) -> None:
        """Take an object that has all of `names`, and of other fields only `optional` ones."""
        self._prefix = f"{place}: " if place else ""
        if not isinstance(value, Mapping) or set(value) - set(optional) != set(names):
            got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise BankError(f"{self._prefix}fields must be {sorted(names)}, got {got}")
        self.value = value

    @classmethod
    def of_file(
        cls,
        value: object,
        names: Collection[str],
        *,
        kind: str,
        version: int,
        digest: str | None = None,
        place: str = "",
    ) -> Fields:
        """The outermost object of a file.

        Args:
            value: From JSON.
            names: Its fields, with ``format`` and, where `digest` is given, ``digest``.
            kind: What messages call the content.
            version: What ``format`` must be.
            digest: What ``digest`` must be.
            place: What messages call the file; empty where the caller says it.

        Raises:
            BankError: If it is none, of another format, or of another network.
        """
        prefix = f"{place}: " if place else ""
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        if found != version or isinstance(found, bool):  # true == 1 in Python
            raise BankError(
                f"{prefix}{kind} format must be {version}, got {found!r:.80}; a newer supsup may "
                "read it"
            )
        fields = cls(value, names, place)
        if digest is not None and fields["digest"] != digest:
            raise BankError(
                f"{prefix}the {kind} belongs to another network: digest must be {digest}, "
                f"got {fields['digest']!r:.80}"
            )
        return fields

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        return self.value[name]

    def get(self, name: str, kind: type[T]) -> T:
        """A field of a type; true is no number, and a float may be written as an integer.

        Raises:
            OverflowError: If no float holds the number.
        """
        value = self[name]
        allowed = (int, float) if kind is float else kind
        if isinstance(value, bool) or not isinstance(value, allowed):
            self._refuse(name, _KINDS[kind])
        return kind(value)

    def items(self, name: str, *, least: int = 0, most: int | None = None) -> list[Any]:
        """A list of `least` to `most` items."""
        value = self[name]
        if not isinstance(value, list) or not least <= len(value) <= (most or len(value)):
            self._refuse(name, f"a list of {least} to {most}" if most else "a list")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """A list of integers."""
        sizes = self.items(name)
        if not all(map(is_integer, sizes)):
            self._refuse(name, "a list of integers")
        return tuple(sizes)

    def _refuse(self, name: str, rule: str) -> NoReturn:
        raise BankError(f"{self._prefix}{name} must be {rule}, got {self[name]!r:.80}")
