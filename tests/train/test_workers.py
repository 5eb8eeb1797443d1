"""Tasks learned side by side are those of one after another; deaths and interrupts lose none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from joblib.executor import get_memmapping_executor

import supsup_train as st
from commands import program, run, run_program
from conftest import random_task
from fuzz.deaths import files, unordered, workers_of
from side_by_side import OPTIONS, begun, one_after_another
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.errors import BankLockedError, InputError
from supsup_runtime.files import exclusive
from supsup_train import Workers
from supsup_train.cli.options import bytes_of_worker
from supsup_train.resume import learn_missing, unheard
from supsup_train.workers import learn_units as module
from supsup_train.workers import processes, room
from supsup_train.workers.learn_units import learn_units
from supsup_train.workers.room import check_room, check_room_at_once, most_workers
from supsup_train.workers.work import Result, Unit
from tiny_streams import pictures_file

NAMES = [f"t{index}" for index in range(7)]
UNITS = [(index,) for index in range(7)]
TWO = Workers(count=2)


@pytest.mark.slow
def test_results_come_in_order_from_other_processes() -> None:
    def learn(unit: Unit) -> tuple[int, int]:
        return unit[0], os.getpid()

    found = list(learn_units(learn, UNITS, NAMES, TWO))
    assert [result.unit for result in found] == UNITS
    assert [result.made[0] for result in found] == list(range(7))
    assert os.getpid() not in {result.made[1] for result in found}
    assert list(learn_units(learn, [], NAMES, TWO)) == []
    assert {result.made[1] for result in learn_units(learn, UNITS, NAMES, Workers())} == {
        os.getpid()
    }


@pytest.mark.slow
def test_a_worker_uses_as_many_threads_as_it_is_told() -> None:
    def learn(_: Unit) -> tuple[int, str]:
        import torch

        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]

    assert next(learn_units(learn, [(0,)], NAMES, TWO)).made == (1, "1")


@pytest.mark.slow
@pytest.mark.parametrize(("deaths", "ends"), [(1, True), (2, True), (3, False)])
def test_the_task_of_a_dead_worker_is_tried_twice_more(
    tmp_path: Path, deaths: int, ends: bool
) -> None:
    def learn(unit: Unit) -> int:
        marks = list(tmp_path.glob("*"))
        if unit == (3,) and len(marks) < deaths:
            (tmp_path / str(len(marks))).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return unit[0]

    found: list[int] = []
    if ends:
        found += [result.made for result in learn_units(learn, UNITS, NAMES, TWO)]
        assert found == list(range(7))
        return
    with pytest.raises(InputError, match=r"^task 't3': its worker died 3 times: .*--workers$"):
        found += (result.made for result in learn_units(learn, UNITS, NAMES, TWO))
    assert len(list(tmp_path.glob("*"))) == 3


def test_what_is_done_comes_out_before_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def source(*_: object) -> Iterator[Result[int]]:
        yield Result((2,), 2, 0.0)
        yield Result((1,), 1, 0.0)
        raise InputError("task 't0': is bad")

    monkeypatch.setattr(module, "in_processes", source)
    found: list[int] = []
    with pytest.raises(InputError, match=r"^task 't0': is bad$"):
        found.extend(result.made for result in learn_units(len, UNITS, NAMES, TWO))
    assert found == [2, 1]


@pytest.mark.slow
def test_what_is_done_is_kept_when_keeping_it_is_interrupted(tmp_path: Path) -> None:
    tasks = make_stream("permuted", load_dataset(), num_tasks=7)
    kept: list[int] = []

    def learn(unit: Unit) -> list[int]:
        (tmp_path / str(unit[0])).touch()
        return [*unit]

    def keep(unit: Unit, made: Sequence[int]) -> list[dict[str, int]]:
        if unit == (2,):
            while not (tmp_path / "4").exists():  # another in flight, begun after 3
                time.sleep(0.01)
            time.sleep(0.5)  # on their way back
            raise KeyboardInterrupt
        kept.extend(made)
        return [{}]

    with pytest.raises(KeyboardInterrupt):
        learn_missing(tasks, (), learn, keep, unheard, workers=TWO)
    assert set(kept) > {0, 1, 3}
    assert len(kept) <= 5  # of the seven: no more than are in flight


@pytest.mark.slow
def test_an_interrupt_waits_until_a_task_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise loky's thread fails at times: it is ended while it takes the task over."""
    make, failed = get_memmapping_executor, list[object]()

    def interrupting(*args: object, **options: object) -> object:
        pool = make(*args, **options)
        submit = pool.submit

        def submit_and_interrupt(*task: object) -> object:
            job = submit(*task)
            if task[2] == (4,):
                signal.raise_signal(signal.SIGINT)
            return job

        monkeypatch.setattr(pool, "submit", submit_and_interrupt)
        return pool

    monkeypatch.setattr(threading, "excepthook", failed.append)
    monkeypatch.setattr(processes, "get_memmapping_executor", interrupting)
    for _ in range(5):
        found: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            found.extend(len(result.unit) for result in learn_units(len, UNITS, NAMES, TWO))
        assert not failed
        assert 0 < len(found) < len(UNITS)


@pytest.mark.slow
def test_workers_ignore_interrupts_that_the_command_ignores() -> None:
    def learn(_: Unit) -> bool:
        return signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with processes._interrupts_held():
            code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
            said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert said.stdout.strip() == b"True"
        assert all(result.made for result in learn_units(learn, UNITS, NAMES, TWO))
    finally:
        signal.signal(signal.SIGINT, before)


def test_counts_are_checked() -> None:
    with pytest.raises(InputError, match=r"^workers: must be an integer in \[1, 10000\], got 0$"):
        Workers(count=0)
    with pytest.raises(InputError, match=r"^threads: must be an integer in \[1, 10000\], got 0$"):
        Workers(threads=0)
    assert Workers(count=0, cluster="auto").elsewhere
    assert not Workers().elsewhere


def test_more_workers_than_cores_or_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_cores", lambda: 4)
    monkeypatch.setattr(room, "available_bytes", lambda: 3 << 30)
    assert most_workers(1 << 20) == 4
    assert most_workers(1 << 20, threads=3) == 1
    assert most_workers(1 << 30) == 3
    assert most_workers(9 << 30) == 1
    check_room(3, 1 << 30)
    check_room(1, 9 << 30)  # in this process
    text = "--workers: 5 need 5 cores, this machine lets 4 be used; give at most 4"
    with pytest.raises(InputError, match=f"^{text}$"):
        check_room(5, 1)
    text = "--workers: 3 of 2 threads need 6 cores, this machine lets 4 be used; give at most 2"
    with pytest.raises(InputError, match=f"^{text}$"):
        check_room(3, 1, threads=2)
    text = r"--workers: 4 need about 4\.0 GiB of memory, 3\.0 are available; give at most 3"
    with pytest.raises(InputError, match=f"^{text}$"):
        check_room(4, 1 << 30)
    text = (
        r"--vectorise: 9 tasks at once need about 5\.0 GiB of memory, 3\.0 are available; give at "
    )
    with pytest.raises(InputError, match=f"^{text}most 5$"):
        check_room_at_once(9, 1 << 29, 1 << 29)
    check_room_at_once(5, 1 << 29, 1 << 29)
    check_room_at_once(1, 9 << 30, 9 << 30)
    monkeypatch.setattr(room, "available_bytes", lambda: None)  # nothing is known
    check_room(4, 1 << 50)
    check_room_at_once(9, 1 << 50, 1 << 50)


def test_what_depends_on_earlier_tasks_is_refused(tmp_path: Path) -> None:
    base = [*OPTIONS, "--workers", 2, "--bank", tmp_path / "b"]
    for more, reason in (
        (["--transfer", "masks"], "transfer: masks makes each task depend on those before it, so "),
        (
            ["--scenario", "NNs"],
            "--workers, --cluster, --device, --vectorise, --precision: go with ",
        ),
    ):
        done = run("supsup-train", *base, *more, status=1)
        assert done.stderr.splitlines()[-1].startswith(f"supsup-train: {reason}")
    psp = ["psp", "permuted", "--steps", 2, "--workers", 2, "--bank", tmp_path / "b"]
    done = run("supsup-baseline", *psp, status=1)
    assert "--workers: psp changes the weights of all tasks with every new one" in done.stderr


def test_workers_share_neither_a_bank_with_another_command_nor_a_gpu(tmp_path: Path) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=1)
    module = st.make_model("mlp-4", input_shape=(64,), outputs=12)
    bank = st.create_bank(tmp_path / "b", module, input_shape=(64,), real_outputs=10)
    text = "another process is learning tasks for this bank; wait for it to end"
    with pytest.raises(InputError, match=r"^device: cuda is one for all workers; learn tasks at o"):
        st.train_stream(bank, module, stream, workers=TWO, device=st.Device(name="cuda"))
    with (
        exclusive(bank.path, ".training"),
        pytest.raises(BankLockedError, match=f"^{bank.path}: {text}$"),
    ):
        st.train_stream(bank, module, stream, recipe=st.Recipe(steps=1))
    bank.add(random_task(bank.network, "other"))  # the lock of writers is another
    st.train_stream(bank, module, stream, recipe=st.Recipe(steps=1))
    assert bank.task_names == ("other", "permuted-0000")


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["permuted", "own"])
def test_banks_are_those_of_one_after_another(stream: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    pass\n\n\n"
        "def make(shape, outputs):\n"
        "    size = __import__('math').prod(shape)\n"
        "    return Net(nn.Flatten(), nn.Linear(size, 9), nn.ReLU(), nn.Linear(9, outputs))\n"
    )
    if stream == "own":
        for name in ("t1", "t2", "t3"):
            pictures_file(tmp_path / f"{name}.npz", classes=3, side=8, images=60)
        text = "".join(f'[[task]]\nname = "{n}"\ndata = "{n}.npz"\n' for n in ("t1", "t2", "t3"))
        (tmp_path / "tasks.toml").write_text(text)
        words: list[object] = ["own", "--data", tmp_path / "tasks.toml"]
    else:
        words = ["permuted", "--tasks", 5]
    words += ["--module", f"{tmp_path / 'net.py'}:make", "--steps", 20, "--outputs", 20]
    for name, more in (("one", ["--threads", 1]), ("two", ["--workers", 2])):
        run_program("supsup-train", *words, *more, "--bank", tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(MaskBank.open(tmp_path / "two")) > 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["batche", "heads-random", "dense"])
def test_banks_of_baselines_are_those_of_one_after_another(method: str, tmp_path: Path) -> None:
    words = [method, "permuted", "--tasks", 3, "--model", "mlp-8", "--steps", 20]
    for name, more in (("one", ["--threads", 1]), ("two", ["--workers", 2])):
        run_program("supsup-baseline", *words, *more, "--bank", tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def processes_of(driver: int) -> set[int]:
    """Return the processes of a session, but for the first."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == driver != int(path.name):
                found.add(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupt", "terminate", "kill"])
def test_a_stopped_command_leaves_no_process_and_resumes(how: str, tmp_path: Path) -> None:
    bank = tmp_path / "b"
    with begun(bank, "--workers", 2) as (driver, err):
        for line in err:
            if line.startswith("permuted-0002"):
                break
        if how == "interrupt":
            os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
        else:
            driver.send_signal(signal.SIGTERM if how == "terminate" else signal.SIGKILL)
        rest = driver.communicate(timeout=60)[1]
    assert "Traceback" not in rest
    assert len(MaskBank.open(bank)) >= 3
    for _ in range(100):
        if not processes_of(driver.pid):
            break
        time.sleep(0.1)
    assert not processes_of(driver.pid)
    run_program("supsup-train", *OPTIONS, "--tasks", 40, "--workers", 2, "--bank", bank)
    assert unordered(files(bank)) == unordered(one_after_another())  # later tasks may be kept


@pytest.mark.slow
def test_killed_workers_lose_no_task(tmp_path: Path) -> None:
    bank, killed = tmp_path / "b", 0
    with begun(bank, "--workers", 2) as (driver, err):
        for line in err:
            if line.startswith(("permuted-0005", "permuted-0015", "permuted-0025")):
                for worker in islice(workers_of(driver.pid), 1):  # none while they are replaced
                    os.kill(worker, signal.SIGKILL)
                    killed += 1
        assert driver.wait(timeout=60) == 0
    assert killed > 0
    assert files(bank) == one_after_another()


@pytest.mark.slow
def test_random_layers_draw_by_task_wherever_it_is_learned(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef make(shape, outputs):\n"
        "    return nn.Sequential(nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, outputs))\n"
    )
    words = ["permuted", "--module", f"{tmp_path / 'net.py'}:make", "--outputs", 20]
    words += ["--steps", 30, "--quiet"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_program("supsup-train", *words, "--tasks", 4, "--threads", 1, "--bank", one)
    for tasks in (1, 4):  # the second resumes
        run_program("supsup-train", *words, "--tasks", tasks, "--workers", 2, "--bank", two)
    assert files(one) == files(two)


def test_a_slow_task_does_not_hold_up_all_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [Result((index,), index, 0.0) for index in (1, 2, 3, 0, 5, 4, 6)]
    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    monkeypatch.setattr(module, "in_processes", lambda *_: (each for each in results))
    found = [result.made for result in learn_units(len, UNITS, NAMES, TWO)]
    assert found == [1, 2, 3, 0, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 8, 64])
def test_the_memory_of_a_worker_is_estimated(tmp_path: Path, at_once: int) -> None:
    data = tmp_path / "data.npz"
    x, y = np.zeros((20_000, 784), np.uint8), np.arange(20_000) % 10
    x[:, 0] = 1 + y
    np.savez(data, x_train=x, y_train=y, x_test=x[:2000], y_test=y[:2000])
    words = [program("supsup-train"), "permuted", "--data", data, "--model", "lenet-300-100"]
    words += ["--tasks", at_once, "--vectorise", at_once, "--steps", 5, "--quiet"]
    words += ["--bank", tmp_path / "b", "--threads", 1]
    # a small process between, because a child's peak begins with that of its parent
    code = "import resource as r, subprocess as s, sys; s.run(sys.argv[1:], check=True); "
    code += "print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    command = [sys.executable, "-c", code, *map(str, words)]
    used = int(subprocess.run(command, capture_output=True, check=True).stdout)
    stream = make_stream("permuted", load_dataset(data), num_tasks=1)
    module = st.make_model("lenet-300-100", input_shape=(784,), outputs=100)
    fixed, each = bytes_of_worker(stream, module, shared=at_once > 1)
    assert 0.9 * used < fixed + at_once * each < 1.5 * used
    fixed, each = bytes_of_worker(stream, module)
    with_others = bytes_of_worker(stream, module, "shuffled,others")
    assert with_others == (fixed + 2 * 4 * 400 * 784, each)
