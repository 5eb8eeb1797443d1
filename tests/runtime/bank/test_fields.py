from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from supsup_runtime.bank.fields import (
    MAX_DEPTH,
    MAX_VALUES,
    Fields,
    is_integer,
    is_number,
    is_unicode,
    parse_json,
    strings,
)
from supsup_runtime.errors import BankError

BOTH = {1: {"format"}, 2: {"format", "digest"}}


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


@pytest.mark.parametrize("names", [{"a"}, {"a", "b", "c"}, {"a", "c"}])
def test_fields_and_strings_are_exactly_those_named(names: set[str]) -> None:
    value = {"a": "x", "b": "y"}
    with pytest.raises(BankError, match="it must have the strings"):
        strings(value, names, "it")
    with pytest.raises(BankError, match="fields must be"):
        Fields(value, names)
    with pytest.raises(BankError, match="it must have the strings"):
        strings({"a": 1}, {"a"}, "it")


@pytest.mark.parametrize("format_", [0, 3, True, 1.0, "2", None])
def test_another_format_of_a_file_is_refused(format_: object) -> None:
    with pytest.raises(
        BankError, match=f"f: thing format must be 1 or 2, got {format_!r}; a newer"
    ):
        Fields.of_file({"format": format_}, BOTH, kind="thing", place="f")
    for value in ({"format": 1}, {"format": 2, "digest": "d"}):
        assert Fields.of_file(value, BOTH, kind="thing").value == value
    with pytest.raises(BankError, match="fields must be"):
        Fields.of_file({"format": 1, "digest": "d"}, BOTH, kind="thing")


@pytest.mark.parametrize("digest", ["aa", "cc", "", None])
def test_a_file_of_another_network_is_refused(digest: object) -> None:
    value = {"format": 2, "digest": digest}
    message = f"^the thing belongs to another network: digest must be bb, got {digest!r}"
    with pytest.raises(BankError, match=message):
        Fields.of_file(value, BOTH, kind="thing", digest="bb")
    Fields.of_file({"format": 2, "digest": "bb"}, BOTH, kind="thing", digest="bb")
    Fields.of_file(value, BOTH, kind="thing")


def test_lengths_of_lists_are_those_allowed() -> None:
    fields = Fields({"f": [1, 2]}, {"f"})
    for least, most in ((0, 2), (2, 2), (0, 3), (2, None)):
        assert fields.items("f", least=least, most=most) == [1, 2]
    for least, most in ((3, None), (0, 1), (3, 4)):
        with pytest.raises(BankError, match="f must be a list"):
            fields.items("f", least=least, most=most)


def test_kinds_of_values() -> None:
    assert [is_number(v) for v in (1, 1.5, True, "1", None)] == [True, True, False, False, False]
    assert [is_integer(v) for v in (1, 1.0, False, "1")] == [True, False, False, False]
    assert [is_unicode(v) for v in ("ä", "\ud800")] == [True, False]


def test_strict_json() -> None:
    for data in ('{"a": [1, 2.5, "x"], "b": {"a": null}}', '{"é": "[[{{,,"}'.encode(), b"1.0"):
        assert parse_json(data) == json.loads(data)
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep) == json.loads(deep)
    wide = "[" + "0," * (MAX_VALUES - 2) + "0]"
    assert len(parse_json(wide)) == MAX_VALUES - 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"a": 1}'.encode("utf-16"), "'utf-8' codec can't decode"),
        ('{"a": 1}'.encode("utf-8-sig"), "Expecting value"),
        (b"\xff", "'utf-8' codec can't decode"),
        ('{"a": 1, "a": 1}', "a key stands twice"),
        ('{"b": {"a": 1, "\\u0061": 2}}', "a key stands twice"),
        ("NaN", "NaN is not finite"),
        ("[-Infinity]", "-Infinity is not finite"),
        ("1e999", "1e999 is not finite"),
        ("1" * 5000, "Exceeds the limit"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than 100 times"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested more than 100 times"),
        ("[" * 10**5, "(recursion|Stack overflow)"),
        ("[" + "[]," * (MAX_VALUES // 2) + "0]", "more than 1048576 values"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
    ],
)
def test_other_json_is_refused(data: bytes | str, message: str) -> None:
    with pytest.raises(BankError, match=f"^it must be JSON: .*{message}") as caught:
        parse_json(data, "it ")
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
