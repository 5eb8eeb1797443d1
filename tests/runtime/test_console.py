"""The printer of commands, and how they end."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import call
from supsup_runtime.console import (
    MAX_CELL,
    MAX_LINE,
    parser,
    print_result,
    printable,
    run_command,
    say,
    to_path,
    to_table,
    whole,
)
from supsup_runtime.errors import BankError

HOSTILE = "\x1b[31mred\x1b[0m\n\r\x00\x07\x9b\u2028\u202e\ud800\U000e0041"


@given(st.text(st.characters(exclude_categories=[])))
def test_what_is_shown_is_one_line_without_controls(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()  # no surrogates
    if text.isprintable() and len(text) <= MAX_CELL:
        assert shown == text


def test_what_is_too_long_is_cut() -> None:
    assert printable("x" * 10**6) == "x" * MAX_CELL + "..."


def test_cells_of_a_table_are_escaped_before_they_are_aligned() -> None:
    lines = to_table(("name", HOSTILE), [("a\nb", 1), ("c" * 200, 22)]).split("\n")
    assert len(lines) == 3
    assert lines[1].startswith("a\\nb  ")
    assert all(line.isprintable() and len(line) < 300 for line in lines)


def output_of(command: Callable[[], object], status: int = 0) -> tuple[str, str]:
    done = call(lambda: run_command("supsup-x", command), "supsup-x", status=status)
    return done.stdout, done.stderr


def test_results_messages_and_progress_are_escaped() -> None:
    out, err = output_of(lambda: print_result({}, as_json=False, text=f"1\n2 {HOSTILE[:10]}"))
    assert (out, err) == ("1\n2 \\x1b[31mred\\x1b[\n", "")

    def refuse() -> None:
        say(f"{HOSTILE[:3]} progress")
        raise BankError(f"bank: {HOSTILE}" + "x" * 10**6)

    out, err = output_of(refuse, status=3)
    assert out == ""
    assert err.startswith("\\x1b[3 progress\nsupsup-x: bank: \\x1b[31mred\\x1b[0m\\n\\r\\x00")
    assert "\\u202e\\ud800" in err
    assert len(err) < 2 * MAX_LINE
    assert err.count("\n") == 2


def test_json_is_neither_cut_nor_raw() -> None:
    out, _ = output_of(lambda: print_result([HOSTILE, "x" * 10**5], as_json=True, text=""))
    assert out.isascii()
    assert "\x1b" not in out
    assert len(out) > 10**5


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            MemoryError("Unable to allocate 1 TiB"),
            1,
            "not enough memory (Unable to allocate 1 TiB)",
        ),
        (OSError(28, "No space left on device", "bank.json"), 1, "bank.json: No space left"),
        (KeyboardInterrupt(), 130, "interrupted; finished work is kept"),
    ],
)
def test_how_a_command_ends(error: BaseException, status: int, message: str) -> None:
    def fail() -> None:
        raise error

    assert output_of(fail, status)[1].startswith(f"supsup-x: {message}")


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command("supsup-x", lambda: 1 // 0)


def test_what_the_stream_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    print_result({}, as_json=False, text="größe 日")
    stream.seek(0)
    assert stream.read() == "gr\\xf6\\xdfe \\u65e5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "must be an integer of at least 1, got '0'"),
        ("1.5", "must be an integer of at least 1, got '1.5'"),
        ("", "must be an integer of at least 1, got ''"),
        ("9" * 30, "must be at most 1024, got '999999"),
        ("9" * 9999, "must be an integer of at least 1, got '999999"),
    ],
)
def test_numbers_out_of_range(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        whole(1, 1024)(text)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 100


def test_usage_errors_are_escaped_and_status_2() -> None:
    made = parser("supsup-x", "Does.", ())
    made.add_argument("--file", type=to_path)
    _, err = output_of(lambda: made.parse_args(["--file", ""]), status=2)
    assert err.endswith("supsup-x: error: argument --file: must be a path, got ''\n")
    _, err = output_of(lambda: made.parse_args([HOSTILE[:5]]), status=2)
    assert err.endswith("unrecognized arguments: \\x1b[31m\n")


def test_an_option_given_twice_is_refused() -> None:
    made = parser("supsup-x", "Does.", ())
    made.what_in.add_argument("--data")
    made.what_in.add_argument("--mask", action="append")
    made.what_in.add_argument("file")
    assert made.parse_args(["--mask", "a", "x", "--mask", "b"]).mask == ["a", "b"]
    _, err = output_of(lambda: made.parse_args(["--data", "a", "x", "--data", "a"]), status=2)
    assert err.endswith("supsup-x: error: --data: was given twice; give it once\n")
