"""Memory at hand, and what a model will take, known before it is loaded."""

from __future__ import annotations

from pathlib import Path

from supsup_runtime.model.metadata import ModelInfo

__all__ = ["available_bytes", "bytes_to_load"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_PEAK = {"cpu": 6, "cuda": 10, "portable": 3, "recover": 4}
"""Peak of loading a model that scores, in its file's size: the file, its masks as ONNX Runtime
keeps them, their codes (2 bits a weight, or 4) and the same repacked (docs/PERFORMANCE.md). Of one
that recovers: 330 MB for a file of 88 MB, which has the fixed layers three times."""


def bytes_to_load(info: ModelInfo, file_bytes: int) -> int:
    """About how many bytes loading a model takes at its peak.

    Args:
        info: What the model says of itself.
        file_bytes: Size of its file.
    """
    kind = {"known": "portable", "recover": "recover"}.get(info.mode, info.target)
    return _PEAK[kind] * file_bytes + 16 * info.network.num_masked


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that can be taken without swapping, within the container's limit; None if unknown.

    Args:
        meminfo: Linux's, with a line ``MemAvailable``.
        cgroup: Folder of the control group (version 2).
    """
    limits = [_of_machine(meminfo), _of_container(cgroup)]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _of_machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _of_container(cgroup: Path) -> int | None:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        used -= _file_cache(cgroup / "memory.stat")
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used) if limit.isdigit() else None


def _file_cache(stat: Path) -> int:
    """Bytes of files that the system gives back when memory is asked for."""
    pairs = (line.split() for line in stat.read_text().splitlines())
    return sum(int(value) for key, value in pairs if key in {"active_file", "inactive_file"})
