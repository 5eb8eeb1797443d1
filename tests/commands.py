"""The commands: within the test's own process, or as the programs that they are installed as.

Within the process a command takes the imports that are there already, which cost more than most of
what tests ask of it. As programs: every command once, in end_to_end/test_commands.py, and what a
process is needed for, such as kills.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

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


_STOPPED = """
import os, runpy, sys
event, name, count, number, sys.argv = *sys.argv[1:5], sys.argv[5:]
left = int(count)
def look(happening, arguments):
    global left
    if happening == event and any(str(each).endswith(name) for each in arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), int(number))
sys.addaudithook(look)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_stopped(
    script: str | Path,
    *arguments: object,
    event: str = "os.rename",
    name: str,
    count: int = 1,
    stop: signal.Signals = signal.SIGKILL,
    env: dict[str, str] | None = None,
) -> Done:
    """Run a Python script that gets a signal when it is about to touch a file, whatever the time.

    Args:
        script: Path of the script, such as an installed command.
        *arguments: Its arguments.
        event: What it is about to do, an audit event of Python: ``os.rename`` or ``open``.
        name: End of the file's path.
        count: The signal comes the `count`-th time.
        stop: The signal.
        env: Its environment, if not this process's.
    """
    words = [event, name, count, int(stop), script, *arguments]
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        # a shell's background jobs ignore interrupts, and so would all that they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode in {-stop, 128 + stop}, (done.returncode, done.stderr)
    return done
