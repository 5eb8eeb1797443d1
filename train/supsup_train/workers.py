"""Learn tasks here, in processes side by side, or on a Ray cluster; results come in order."""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from joblib import cpu_count
from joblib.executor import get_memmapping_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from supsup_runtime.arrays import checked_whole
from supsup_runtime.console import version
from supsup_runtime.errors import InputError, SupSupError, explained
from supsup_runtime.memory import available_bytes

Made = TypeVar("Made")
Unit = tuple[int, ...]
"""Indices of tasks that are learned together, mostly one."""
Learn = Callable[[Unit], Made]
RETRIES = 2
"""Of a task whose worker died."""
_CONNECT_SECONDS = 10
_MOST_WAITING = 64
"""Results that wait for an earlier one."""
MAX_WORKERS = 10_000
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables of the environment of libraries, for their threads."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Where tasks are learned.

    Attributes:
        count: Tasks at once: worker processes; 1 learns in this process, one task after another.
            On a cluster, 0 stands for as many as it has room for.
        threads: PyTorch threads of each worker, and cores that it takes of a cluster.
        cluster: Address of a Ray cluster, ``auto`` for the one that this machine is part of, or
            None for processes of this machine.

    Raises:
        InputError: If a count is out of range.
    """

    count: int = 1
    threads: int = 1
    cluster: str | None = None

    def __post_init__(self) -> None:
        checked_whole("workers:", self.count, 1 if self.cluster is None else 0, MAX_WORKERS)
        checked_whole("threads:", self.threads, 1, MAX_WORKERS)

    @property
    def elsewhere(self) -> bool:
        """Whether tasks are learned in other processes, side by side."""
        return self.count != 1 or self.cluster is not None


@dataclass(frozen=True, slots=True)
class Result(Generic[Made]):
    """What was made of a unit, and the seconds it took."""

    unit: Unit
    made: Made
    seconds: float


def learn_units(
    learn: Learn[Made], units: Sequence[Unit], names: Sequence[str], workers: Workers
) -> Generator[Result[Made]]:
    """Learn units of tasks and yield the results in their order.

    If a unit takes so long that `_MOST_WAITING` later ones are done, these come out before it.
    After an error or an interrupt, also one that is thrown in, what is done comes out before it is
    raised.

    Args:
        learn: Learns a unit. For workers it is pickled, once the first result is asked for.
        units: The units.
        names: Names of all tasks, by index, for messages.
        workers: Where to learn.

    Raises:
        InputError: If a worker died `RETRIES` times more over the same task, or the cluster cannot
            be used. Whatever `learn` raises.
    """
    if not workers.elsewhere:
        yield from (_timed(learn, unit) for unit in units)
        return
    source = _in_processes if workers.cluster is None else _on_cluster
    waiting: dict[Unit, Result[Made]] = {}
    passed = set[Unit]()
    left = iter(units)
    wanted = next(left, None)
    with closing(source(learn, units, names, workers)) as results:
        try:
            for result in results:
                waiting[result.unit] = result
                while wanted in waiting or wanted in passed:
                    if wanted in waiting:
                        yield waiting.pop(wanted)
                    wanted = next(left, None)
                if len(waiting) > _MOST_WAITING:
                    passed |= waiting.keys()
                    yield from waiting.values()
                    waiting.clear()
        except (Exception, KeyboardInterrupt) as error:
            yield from waiting.values()
            yield from drained(results, error)
            raise


def drained(results: Generator[Made], error: BaseException) -> Iterator[Made]:
    """Throw an error into a generator; yield what comes out before it is raised again."""
    try:
        yield results.throw(error)
        yield from results
    except BaseException as raised:
        if raised is not error:
            raise


def most_workers(needed: int, *, threads: int = 1) -> int:
    """Return how many workers of `needed` bytes and `threads` this machine has room for."""
    room = available_bytes()
    by_memory = MAX_WORKERS if room is None else room // max(needed, 1)
    return max(1, min(_cores() // threads, by_memory))


def check_room(count: int, needed: int, *, threads: int = 1) -> None:
    """Refuse more workers than this machine has cores or memory for."""
    if count * threads > _cores():
        each = "" if threads == 1 else f" of {threads} threads"
        raise InputError(
            f"--workers: {count}{each} need {count * threads} cores, this machine lets {_cores()} "
            f"be used; give at most {max(1, _cores() // threads)}"
        )
    room = available_bytes()
    if count > 1 and room is not None and count * needed > room:
        raise InputError(
            f"--workers: {count} need about {count * needed / 2**30:.1f} GiB of memory, "
            f"{room / 2**30:.1f} are available; give at most {most_workers(needed)}"
        )


def check_room_at_once(tasks: int, fixed: int, each: int) -> None:
    """Refuse more tasks at once than this machine has memory for: bytes of all, and of each."""
    room, needed = available_bytes(), fixed + tasks * each
    if tasks > 1 and room is not None and needed > room:
        most = max(1, (room - fixed) // each)
        raise InputError(
            f"--vectorise: {tasks} tasks at once need about {needed / 2**30:.1f} GiB of memory, "
            f"{room / 2**30:.1f} are available; give at most {most}"
        )


def _cores() -> int:
    return int(cpu_count())  # affinity and quotas of control groups count


def _timed(learn: Learn[Made], unit: Unit) -> Result[Made]:
    start = time.perf_counter()
    made = learn(unit)
    return Result(unit, made, time.perf_counter() - start)


def _in_worker(
    learn: Learn[Made], unit: Unit, threads: int, wanted: dict[str, str]
) -> Result[Made]:
    """Learn a unit in a worker, if its packages are the driver's."""
    for name, own in _versions().items():
        if own != wanted[name]:
            raise InputError(
                f"node {platform.node()}: {name} must be {wanted[name]}, as where the command "
                f"runs, got {own}; install the same there"
            )
    torch.set_num_threads(threads)
    return _timed(learn, unit)


def _begin_process(driver: int) -> None:
    """Leave interrupts of the terminal to the driver, and end when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _versions() -> dict[str, str]:
    return {"supsup": version(), "torch": torch.__version__, "Python": platform.python_version()}


def _in_processes(
    learn: Learn[Made], units: Sequence[Unit], names: Sequence[str], workers: Workers
) -> Generator[Result[Made]]:
    """Yield results as they come.

    If a worker dies, all tasks in flight are lost and learned again; those that are lost twice in a
    row are then learned one by one, to find the one that kills its worker.
    """
    left, before = deque(units), set[Unit]()
    while left:
        lost, reason = yield from _round(learn, left, workers)
        if lost:
            _log.warning(
                "a worker died, %d tasks begin again; if memory is short, use fewer --workers",
                sum(map(len, lost)),
            )
        for unit in filter(before.__contains__, lost):
            again, reason = yield from _round(learn, deque([unit]), workers)
            if again:
                raise _died(unit, names, reason)
        left.extendleft(unit for unit in reversed(lost) if unit not in before)
        before = set(lost)


def _round(
    learn: Learn[Made], left: deque[Unit], workers: Workers
) -> Generator[Result[Made], None, tuple[list[Unit], str]]:
    """Learn units until all are learned or a worker dies; return those lost then, and why."""
    environment = dict.fromkeys(_THREADS, str(workers.threads))
    pool = get_memmapping_executor(
        workers.count, initializer=_begin_process, initargs=(os.getpid(),), env=environment
    )
    running: dict[Future[Result[Made]], Unit] = {}
    try:
        while left or running:
            while left and len(running) <= workers.count:  # one more, for the next that is idle
                job = pool.submit(_in_worker, learn, left[0], workers.threads, _versions())
                running[job] = left.popleft()
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                result = job.result()
                del running[job]
                yield result
    except TerminatedWorkerError as error:
        yield from _done(running)
        return list(running.values()), str(error)
    except (Exception, KeyboardInterrupt):
        yield from _done(running)
        raise
    finally:
        pool.terminate(kill_workers=True)  # else they wait for minutes, data and all
    return [], ""


def _done(running: dict[Future[Result[Made]], Unit]) -> Iterator[Result[Made]]:
    """Yield the results that are there, and take them out."""
    for job in [job for job in running if job.done() and job.exception() is None]:
        del running[job]
        yield job.result()


def _died(unit: Unit, names: Sequence[str], reason: str) -> InputError:
    tasks = ", ".join(repr(names[index]) for index in unit)
    return InputError(
        f"task {tasks}: its worker died {RETRIES + 1} times: {reason.partition(chr(10))[0]:.200}; "
        "if memory was short, use fewer --workers"
    )


def _on_cluster(
    learn: Learn[Made], units: Sequence[Unit], names: Sequence[str], workers: Workers
) -> Generator[Result[Made]]:
    """Yield results of a Ray cluster as they come; Ray tries a lost task again on another node."""
    with _connected(str(workers.cluster)) as ray:
        options = {"num_cpus": workers.threads, "max_retries": RETRIES}
        _check_nodes(ray, workers.threads)
        remote = ray.remote(**options)(_in_worker)
        shared = ray.put(learn)  # once, with its data, whatever the number of tasks
        left = iter(units)
        running: dict[Any, Unit] = {}
        try:
            while True:
                room = workers.count or 2 * int(ray.cluster_resources().get("CPU", 1))
                while len(running) < room and (unit := next(left, None)) is not None:
                    running[remote.remote(shared, unit, workers.threads, _versions())] = unit
                if not running:
                    return
                for ref in ray.wait(list(running), timeout=1)[0]:
                    result = _fetched(ray, ref, running[ref], names)
                    del running[ref]
                    yield result
        except (Exception, KeyboardInterrupt):
            for ref in ray.wait(list(running), num_returns=len(running), timeout=0)[0]:
                with suppress(InputError):
                    yield _fetched(ray, ref, running.pop(ref), names)
            raise
        finally:
            for ref in running:
                ray.cancel(ref, force=True)


def _check_nodes(ray: Any, threads: int) -> None:  # noqa: ANN401 - Ray's
    """Refuse tasks for which no node has the cores: they would wait for ever."""
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if max(cores, default=0) < threads:
        raise InputError(
            f"--threads: a node must have {threads} cores for a task, the largest has "
            f"{max(cores, default=0)}; give fewer"
        )


def _fetched(ray: Any, ref: object, unit: Unit, names: Sequence[str]) -> Any:  # noqa: ANN401 - Ray's
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SupSupError):
            raise error.cause from None
        raise InputError(
            f"a node of the cluster cannot learn {names[unit[0]]!r}: {error.cause!r:.200}; install "
            "what the command has there"
        ) from error
    except ray.exceptions.RayError as error:
        raise _died(unit, names, str(error)) from error


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Provide `ray`, connected to a cluster."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError(str(explained(error, "--cluster", "ray"))) from None
    if ray.is_initialized():
        own = ray.get_runtime_context().gcs_address
        if address not in {"auto", own}:
            raise InputError(
                f"--cluster: {address}: this process is connected to {own} already; give that, or "
                "auto"
            )
        yield ray
        return
    _check_address(address)
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse an address where no cluster answers: Ray would try for minutes."""
    where = []
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except (OSError, ValueError, OverflowError) as error:
            raise _unreachable(address, error) from error
        if address.startswith("ray://"):
            return
        where = ["--address", address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *where]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=_CONNECT_SECONDS)  # noqa: S603 - Ray's own
    except subprocess.TimeoutExpired as error:
        raise _unreachable(address, f"no answer in {_CONNECT_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise _unreachable(address, said.rpartition("\n")[2]) from error


def _unreachable(address: str, error: object) -> InputError:
    reason = " ".join(str(error).split())
    other = reason.startswith("Version mismatch")  # of Ray or Python
    remedy = "install the same here" if other else "start one with: ray start --head"
    return InputError(
        f"--cluster: {address} must be HOST:PORT of a Ray cluster that runs, or auto: "
        f"{reason:.300}; {remedy}"
    )
