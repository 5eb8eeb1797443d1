"""The commands: within the test's own process, or as the programs that they are installed as.

Within the process a command takes the imports that are there already, which cost more than most of
what tests ask of it. As programs: every command once, in end_to_end/test_commands.py, and what a
process is needed for, such as kills.
"""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

Done = subprocess.CompletedProcess[str]
_PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
SCRIPTS: dict[str, str] = tomllib.loads(_PROJECT.read_text())["project"]["scripts"]


def run(command: str, *arguments: object, status: int = 0) -> Done:
    """Run an installed command's function in this process."""
    module, _, function = SCRIPTS[command].partition(":")
    return call(getattr(import_module(module), function), command, *arguments, status=status)


def call(main: Callable[[], object], name: str, *arguments: object, status: int = 0) -> Done:
    """Run a program's function in this process; it must exit with this status.

    Any exception but the exit is a defect, which a process would print as a traceback.
    """
    words = [name, *map(str, arguments)]
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as exit_:
            main()
    code = exit_.value.code or 0
    assert code == status, err.getvalue()
    return Done(words, status, out.getvalue(), err.getvalue())


def program(command: str) -> str:
    """The path of an installed command."""
    return str(Path(sys.executable).with_name(command))


def run_program(command: str, *arguments: object, status: int = 0) -> Done:
    """Run an installed command in a process of its own."""
    done = subprocess.run(
        [program(command), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def wait_for(process: subprocess.Popen[Any], come: Callable[[], bool]) -> None:
    """Wait until something has come of a process, which must not end before.

    No event tells of it, so it is asked for again and again; a run that hangs fails the test.
    """
    deadline = time.monotonic() + 300
    while not come():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def lines_of(file: Path) -> int:
    """Whole lines in a file, of which there may be none yet."""
    return file.read_text().count("\n") if file.exists() else 0
