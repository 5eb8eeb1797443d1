"""How many workers, and tasks at once, this machine has room for."""

from __future__ import annotations

from joblib import cpu_count

from supsup_runtime.errors import InputError
from supsup_runtime.memory import available_bytes
from supsup_train.workers.work import MAX_WORKERS


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
