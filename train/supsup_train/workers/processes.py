"""Tasks side by side in processes of this machine, by loky."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager

from joblib.executor import get_memmapping_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from supsup_train.workers.work import Learn, Made, Result, Unit, Workers, died, in_worker, versions

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables of the environment of libraries, for their threads."""
_HELD_MS = 2000
"""At most, until loky takes a task over."""
_log = logging.getLogger(__name__)


def in_processes(
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
                raise died(unit, names, reason)
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
                with _interrupts_held():
                    job = pool.submit(in_worker, learn, left[0], workers.threads, versions())
                    running[job] = left.popleft()
                    for _ in range(_HELD_MS):
                        if job.running() or job.done():
                            break
                        time.sleep(0.001)
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


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Raise an interrupt at the end: loky fails if it is ended while it takes a task over."""
    in_main = threading.current_thread() is threading.main_thread()  # which gets all of them
    if not in_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield  # workers ignore them, too, from their first moment
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        if came:
            signal.raise_signal(signal.SIGINT)


def _done(running: dict[Future[Result[Made]], Unit]) -> Iterator[Result[Made]]:
    """Yield the results that are there, and take them out."""
    for job in [job for job in running if job.done() and job.exception() is None]:
        del running[job]
        yield job.result()


def _begin_process(driver: int) -> None:
    """Leave interrupts of the terminal to the driver, and end when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
