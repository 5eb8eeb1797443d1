"""Every command as the program that is installed: it starts, and what it refuses is one line.

And of every command and subcommand, in this process: what its ``--help`` says.
"""

from __future__ import annotations

import argparse

import pytest

from commands import SCRIPTS, run, run_program
from supsup_runtime.console import GROUPS

REFUSED: dict[str, tuple[list[str], int, str]] = {
    "supsup-bank": (["verify", "nowhere"], 3, "not a mask bank: bank.json is missing"),
    "supsup-run": (["nowhere.onnx", "x.npy"], 1, "no such file; make it with supsup-export"),
    "supsup-calibrate": (
        ["nowhere.onnx", "permuted", "--bank", "nowhere"],
        1,
        "no such file; make it with supsup-export",
    ),
    "supsup-hopfield": (["encode", "--bank", "nowhere"], 3, "bank.json is missing"),
    "supsup-inspect": (["nowhere.onnx"], 1, "no such bank or model"),
    "supsup-eval": (["nowhere.onnx", "permuted"], 1, "no such file; make it with supsup-export"),
    "supsup-export": (["--bank", "nowhere", "o.onnx"], 3, "not a mask bank: bank.json is missing"),
    "supsup-train": (["sorted", "--bank", "b"], 1, "kind must be one of permuted, rotated"),
    "supsup-baseline": (["ewc", "permuted", "--bank", "b"], 1, "method: must be one of"),
}


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_refusal_is_one_line_and_a_status(command: str) -> None:
    arguments, status, message = REFUSED[command]
    done = run_program(command, *arguments, status=status)
    assert done.stderr.startswith(f"{command}: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


class _FoundError(Exception):
    """Carries the parser of a command out of it."""


def parsers(command: str) -> dict[str, argparse.ArgumentParser]:
    """The parser of a command and those of its subcommands, by what is typed for them."""

    def found(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _FoundError(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", found)
        with pytest.raises(_FoundError) as caught:
            run(command)
    every = {command: caught.value.args[0]}
    for typed, parser in list(every.items()):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                every |= {f"{typed} {name}": sub for name, sub in action.choices.items()}
    return every


@pytest.mark.parametrize("command", SCRIPTS)
def test_help_says_of_each_option_what_it_is_and_its_default(command: str) -> None:
    for typed, parser in parsers(command).items():
        name, *subcommand = typed.split()
        said = run(name, *subcommand, "--help").stdout
        assert said == parser.format_help()
        assert "  --version" in said, typed
        groups = [group.title for group in parser._action_groups if group._group_actions]
        own = [title for title in groups if title not in {"options", "positional arguments"}]
        assert own == [title for title in GROUPS if title in own], typed
        for action in parser._actions:
            place = f"{typed} {action.option_strings or action.dest}"
            if action.help == argparse.SUPPRESS:
                continue
            text = parser._get_formatter()._expand_help(action) if action.help else ""
            assert text or isinstance(action, argparse._SubParsersAction), f"{place}: no help"
            if action.option_strings and action.nargs != 0:
                assert ("required" if action.required else "default: ") in text, f"{place}: {text}"
