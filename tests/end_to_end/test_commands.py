"""Every command: as it is installed it starts, what it refuses is one line, its help is whole."""

from __future__ import annotations

import argparse
import re
from unittest.mock import patch

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
    "supsup-data": (["download", "cifar10", "--url", "x"], 1, "must begin with http://"),
    "supsup-export": (["--bank", "nowhere", "o.onnx"], 3, "not a mask bank: bank.json is missing"),
    "supsup-train": (
        ["permuted", "--bank", "b", "--lr", "0"],
        1,
        "learning_rate: must be positive",
    ),
    "supsup-baseline": (["psp", "permuted", "--bank", "b", "--matrices"], 1, "is for batche and"),
}


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_refusal_is_one_line_and_a_status(command: str) -> None:
    arguments, status, message = REFUSED[command]
    done = run_program(command, *arguments, status=status)
    assert done.stderr.startswith(f"{command}: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def parsers(command: str) -> dict[str, argparse.ArgumentParser]:
    """The parser of a command and those of its subcommands, by what is typed for them."""
    parse_args = (argparse.ArgumentParser, "parse_args")
    with patch.object(*parse_args, autospec=True, side_effect=SystemExit) as parse:
        run(command)
    every = {command: parse.call_args.args[0]}
    for action in every[command]._actions:
        if isinstance(action, argparse._SubParsersAction):
            every |= {f"{command} {name}": sub for name, sub in action.choices.items()}
    return every


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_percent_sign_in_a_help_text_is_doubled(command: str) -> None:
    """Python 3.14 refuses others when an option is added; earlier ones when help is shown."""
    for typed, parser in parsers(command).items():
        for action in parser._actions:
            for each in (action, *getattr(action, "_choices_actions", ())):
                bare = re.sub(r"%%|%\(\w+\)s", "", each.help or "")
                assert "%" not in bare, f"{typed} {each.option_strings or each.dest}: {each.help}"


@pytest.mark.parametrize("command", SCRIPTS)
def test_help_says_of_each_option_what_it_is_and_its_default(command: str) -> None:
    for typed, parser in parsers(command).items():
        said = run(command, *typed.split()[1:], "--help").stdout
        assert said == parser.format_help()
        titles = [group.title for group in parser._action_groups if group._group_actions]
        own = [title for title in titles if title not in {"options", "positional arguments"}]
        assert own == [title for title in GROUPS if title in own], typed
        assert "--version" in parser._option_string_actions, typed
        for action in parser._actions:
            place = f"{typed} {action.option_strings or action.dest}"
            if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
                continue
            assert action.help, f"{place}: no help"
            text = parser._get_formatter()._expand_help(action)
            if action.option_strings and action.nargs != 0:
                assert "default: " in text or "required" in text, f"{place}: {text}"
