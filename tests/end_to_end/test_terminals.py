"""Commands as processes: streams closed or full, odd words, interrupts, too many threads."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from banks import make_bank
from commands import program, run, run_stopped
from supsup_export.exporter import export

ODD = os.fsdecode(b"\xff")
"""A name that is not UTF-8."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("terminal")
    bank = make_bank(made / "masks", "mlp-7-9", outputs=4, real_outputs=2, tasks=2)
    export(bank, made / "out.onnx")
    np.save(made / "x.npy", np.ones((2, 5), np.float32))
    return made


def ended(
    *words: str | Path, begin: Callable[[], object] | None = None, **streams: int
) -> tuple[int, str]:
    """Status and stderr of a command in a process; `begin` runs in it first."""
    command = [program(str(words[0])), *map(str, words[1:])]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    done = subprocess.run(command, preexec_fn=begin, check=False, timeout=60, **given)  # type: ignore[call-overload]
    return done.returncode, (done.stderr or b"").decode()


@pytest.mark.parametrize("words", [["list"], ["--version"], ["--help"]])
def test_with_stdout_closed_the_work_is_done(folder: Path, words: list[str]) -> None:
    bank = [folder / "masks"] if words == ["list"] else []
    assert ended("supsup-bank", *words, *bank, begin=lambda: os.close(1)) == (0, "")


@pytest.mark.slow
def test_no_file_takes_the_place_of_a_closed_stream(folder: Path, tmp_path: Path) -> None:
    for closed in ([0, 1, 2], [1], [2]):

        def begin(closed: list[int] = closed) -> None:
            for each in closed:
                os.close(each)

        out = tmp_path / f"{len(closed)}-{closed[0]}.onnx"
        assert ended("supsup-export", "--bank", folder / "masks", out, begin=begin)[0] == 0
        assert out.read_bytes() == (folder / "out.onnx").read_bytes()


def test_with_stderr_closed_the_status_stays(folder: Path) -> None:
    assert ended("supsup-bank", "list", folder / "no", begin=lambda: os.close(2))[0] == 3


def test_nobody_reads_the_result(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    assert ended("supsup-bank", "list", folder / "masks", stdout=write) == (0, "")
    os.close(write)


def test_a_full_disk_behind_stdout_is_a_line(folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        for words in (["list", folder / "masks"], ["--help"], ["list", "--help"]):
            status, said = ended("supsup-bank", *words, stdout=full.fileno())
            assert status == 1
            assert said == (
                "supsup-bank: standard output: No space left on device; the work is done, only "
                "its result is not printed\n"
            )
        assert ended("supsup-bank", "list", "no", stderr=full.fileno())[0] == 3


@pytest.mark.slow
def test_paths_that_are_not_utf8(folder: Path, tmp_path: Path) -> None:
    bank, model, x = (tmp_path / f"{ODD}{end}" for end in ("masks", ".onnx", ".npy"))
    shutil.copytree(folder / "masks", bank)
    shutil.copy(folder / "out.onnx", model)
    shutil.copy(folder / "x.npy", x)
    assert ended("supsup-bank", "list", bank) == (0, "")
    assert ended("supsup-inspect", model) == (0, "")
    assert json.loads(run("supsup-inspect", bank, "--json").stdout)["path"] == str(bank)
    assert ended("supsup-run", folder / "out.onnx", x) == (0, "")
    for words, status, message in (
        (("supsup-run", model, x), 1, "ONNX Runtime opens only paths in UTF-8; rename"),
        (("supsup-export", "--bank", bank, tmp_path / ODD), 1, "only to paths in UTF-8; choose"),
        (("supsup-run", folder / "out.onnx", x, "--task", ODD), 1, "task '\\udcff': not among"),
        (("supsup-bank", "rename", bank, "task-0", ODD), 3, "task name: must be"),
        (("supsup-train", ODD, "--bank", bank), 2, "invalid choice: '\\udcff'"),
        (("supsup-train", "permuted", "--bank", bank, "--data", ODD), 1, "\\udcff: expected"),
    ):
        assert message in run(*map(str, words), status=status).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["supsup-run", "", "x.npy"], "argument model: must be a path, got ''"),
        (["supsup-run", "out.onnx", ""], "argument input: must be a path, got ''"),
        (["supsup-bank", "list", ""], "argument bank: must be a path, got ''"),
        (["supsup-inspect", ""], "argument path: must be a path, got ''"),
        (["supsup-export", "--bank", "b", ""], "argument OUTPUT: must be a path, got ''"),
        (["supsup-train", "permuted", "--bank", ""], "argument --bank: must be a path, got ''"),
        (
            ["supsup-run", "m", "x", "--threads", "2147483648"],
            "--threads: must be at most 1024, got '2147483648'",
        ),
        (
            ["supsup-train", "permuted", "--bank", "b", "--threads", "2147483648"],
            "--threads: must be at most 1024, got '2147483648'",
        ),
        (
            ["supsup-train", "permuted", "--bank", "b", "--outputs", "9" * 30],
            "--outputs: must be at most 2147483647, got",
        ),
        (
            ["supsup-train", "permuted", "--bank", "b", "--weight-seed", "-1"],
            "--weight-seed: must be an integer of at least 0, got '-1'",
        ),
        (
            ["supsup-train", "permuted", "--bank", "b", "--tasks", "1000001"],
            "--tasks: must be at most 1000000, got '1000001'",
        ),
        (["supsup-export", "--bank", "b", "o.onnx", "--bits", "3"], "invalid choice: "),
        (["supsup-export", "--bank", "b", "o", "--scoring", "no"], "invalid choice: 'no'"),
    ],
)
def test_usage_errors_are_status_2(words: list[str], message: str) -> None:
    done = run(words[0], *words[1:], status=2)
    assert message in done.stderr.splitlines()[-1]


def test_networks_beyond_memory_are_a_line(tmp_path: Path) -> None:
    for more in (["--model", "mlp-32", "--outputs", 2**31 - 1], ["--model", f"mlp-{10**20}"]):
        done = run("supsup-train", "permuted", "--bank", tmp_path / "b", *more, status=1)
        assert "outputs does not fit in memory; make it smaller" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space")
def test_more_threads_than_a_limit_allows_are_refused(folder: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    words = (folder / "out.onnx", folder / "x.npy", "--threads", "1000")
    status, said = ended("supsup-run", *words, begin=limit)
    assert status == 1
    assert "of 1000 can start; take fewer, or raise the limit of threads or memory" in said


@pytest.mark.parametrize("name", ["_multiarray_umath", "_bitarray", "_safetensors_rust"])
def test_an_interrupt_while_it_imports_is_a_line(name: str) -> None:
    done = run_stopped(program("supsup-run"), event="import", name=name, stop=signal.SIGINT)
    assert done.returncode == 130
    assert done.stderr == "supsup-run: interrupted before it began\n"
