"""Tasks on the nodes of a Ray cluster."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from supsup_runtime.errors import InputError, SupSupError, explained
from supsup_train.workers.work import (
    RETRIES,
    Learn,
    Made,
    Result,
    Unit,
    Workers,
    died,
    in_worker,
    versions,
)

_CONNECT_SECONDS = 10


def on_cluster(
    learn: Learn[Made], units: Sequence[Unit], names: Sequence[str], workers: Workers
) -> Generator[Result[Made]]:
    """Yield results of a Ray cluster as they come; Ray tries a lost task again on another node."""
    with _connected(str(workers.cluster)) as ray:
        options = {"num_cpus": workers.threads, "max_retries": RETRIES}
        _check_nodes(ray, workers.threads)
        remote = ray.remote(**options)(in_worker)
        shared = ray.put(learn)  # once, with its data, whatever the number of tasks
        left = iter(units)
        running: dict[Any, Unit] = {}
        try:
            while True:
                room = workers.count or 2 * int(ray.cluster_resources().get("CPU", 1))
                while len(running) < room and (unit := next(left, None)) is not None:
                    running[remote.remote(shared, unit, workers.threads, versions())] = unit
                if not running:
                    return
                for ref in ray.wait(list(running), timeout=1)[0]:
                    result = _fetched(ray, ref, running[ref], names)
                    del running[ref]
                    yield result
        except (Exception, KeyboardInterrupt):
            yield from _done(ray, running, names)
            raise
        finally:
            for ref in running:
                ray.cancel(ref, force=True)


def _done(ray: Any, running: dict[Any, Unit], names: Sequence[str]) -> Iterator[Any]:  # noqa: ANN401 - Ray's
    """Yield the results that are there, and take them out."""
    count = len(running)
    for ref in ray.wait(list(running), num_returns=count, timeout=0)[0] if count else ():
        with suppress(SupSupError):
            yield _fetched(ray, ref, running.pop(ref), names)


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
        raise died(unit, names, str(error)) from error


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
