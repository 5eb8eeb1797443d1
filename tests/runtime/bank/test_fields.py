from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from supsup_runtime.bank.fields import Fields, strings
from supsup_runtime.errors import BankError


def test_fields_of_their_types() -> None:
    value = {"a": 3, "b": 3, "c": "x", "d": {"e": 1}, "f": [1, 2]}
    found = Fields(value, "abcdf")
    assert (found.get("a", int), found.get("c", str), found.get("d", dict)) == (3, "x", {"e": 1})
    assert isinstance(found.get("b", float), float)
    assert (found.items("f", least=2, most=2), found.shape("f")) == ([1, 2], (1, 2))
    assert Fields({"a": 1, "b": 2}, {"a"}, optional={"b"})["b"] == 2
    assert strings({"a": "x"}, {"a"}, "it") == {"a": "x"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.get("true", int), "here: true must be an integer, got True"),
        (lambda f: f.get("true", float), "here: true must be a number, got True"),
        (lambda f: f.get("list", str), r"here: list must be a string, got \[1, True\]"),
        (lambda f: f.get("list", dict), "here: list must be an object"),
        (lambda f: f.items("true"), "here: true must be a list, got True"),
        (lambda f: f.items("list", most=1), "here: list must be a list of 0 to 1"),
        (lambda f: f.shape("list"), "here: list must be a list of integers"),
        (
            lambda f: Fields(f.value, {"list"}),
            r"^fields must be .* got \['list', 'true'\]",
        ),
        (lambda _: Fields([], {"list"}), r"^fields must be \['list'\], got list"),
        (lambda f: strings(f.value, {"list", "true"}, "it"), "^it must have the strings"),
    ],
)
def test_other_types_are_refused(call: Callable[[Fields], Any], message: str) -> None:
    with pytest.raises(BankError, match=message):
        call(Fields({"true": True, "list": [1, True]}, {"list", "true"}, "here"))
