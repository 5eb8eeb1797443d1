"""The memory available: of the machine, and within the limits of the process's control groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class _Names:
    """A version's files of limit and use, and what its ``memory.stat`` calls the file cache."""

    limit: str
    used: str
    cache: tuple[str, str]


_V1 = _Names(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
)
_V2 = _Names("memory.max", "memory.current", ("active_file", "inactive_file"))


def available_bytes(
    meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP, own: Path = _OWN
) -> int | None:
    """Return the bytes available without swapping, within the limits of control groups.

    Those are the process's own and all above it, of version 1 or 2. None if nothing is known.
    """
    limits = [_of_machine(meminfo)]
    limits += [_of_group(folder, names) for folder, names in _groups(cgroup, own)]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _of_machine(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _groups(mount: Path, own: Path) -> Iterator[tuple[Path, _Names]]:
    """Yield the folders from the root to the process's own group; some may not exist."""
    for line in _lines(own) or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (mount / "memory", _V1) if controllers else (mount, _V2)
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1 if ".." not in parts else 1):
            yield root.joinpath(*parts[:depth]), names


def _of_group(folder: Path, names: _Names) -> int | None:
    try:
        limit = (folder / names.limit).read_text().strip()
        if not limit.isdigit():
            return None
        used = int((folder / names.used).read_text())
        pairs = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
        used -= sum(int(value) for key, value in pairs if key in names.cache)  # freed on demand
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
