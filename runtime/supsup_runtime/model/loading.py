"""Open a model's file: its metadata first, an estimate of memory, then its two sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from supsup_runtime.errors import ModelError
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.protobuf import read_metadata
from supsup_runtime.model.session import Session, SessionOptions, open_session

_FEWER_TASKS = (
    "export fewer tasks, or, if it is not yet, with --target portable, which takes least (or load "
    "with check_memory=False)"
)
_SMALLER_STORE = "encode the bank's tasks with --dtype float16, or load with check_memory=False"
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_PEAK = {"cpu": 6, "cuda": 10, "portable": 3, "recover": 4}
"""Peak of loading a model that scores, in its file's size: the file, its masks as ONNX Runtime
keeps them, their codes (2 bits a weight, or 4) and the same repacked (docs/PERFORMANCE.md). Of one
that recovers: 330 MB for a file of 88 MB, which has the fixed layers three times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A model's metadata, its graph, and its forward program."""

    info: ModelInfo
    session: Session
    forward: Session


def open_model(
    path: str | Path, *, recovers: bool, check_memory: bool, **session: Unpack[SessionOptions]
) -> OpenedModel:
    """Open a model of the kind wanted.

    Args:
        path: The ``.onnx`` file.
        recovers: Whether it must be one that recovers masks, or one that has them.
        check_memory: Refuse a model that takes more memory than is available while it loads.
        **session: Options of `open_session`.

    Raises:
        ModelError: If the file is missing, not a model of supsup, of another contract or of the
            other kind, or too large for the memory available; all before it is loaded. If the file
            is replaced meanwhile.
        ProviderUnavailableError: As `open_session`.
        InputError: As `open_session`.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file}: no such file; make it with supsup-export")
    before = _identity(file)
    info = ModelInfo.from_metadata(read_metadata(file), place=str(file))
    _refuse_kind(file, info, recovers=recovers)
    if check_memory:
        _refuse_too_large(file, info)
    opened = open_session(file, place=str(file), **session)
    if _identity(file) != before:
        raise ModelError(f"{file}: it was replaced while it was loaded; load it again")
    forward = open_session(info.forward, place=f"{file}: its forward program", **session)
    return OpenedModel(info=info, session=opened, forward=forward)


def _identity(file: Path) -> tuple[int, ...]:
    """Tells a file from one that took its place, or that was written over."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _refuse_kind(file: Path, info: ModelInfo, *, recovers: bool) -> None:
    if info.mode == "recover-stream":
        raise ModelError(
            f"{file}: the model recovers a mask from a whole stream in one call, for hosts that "
            "call ONNX Runtime themselves (docs/CONTRACT.md); to load one, export the bank with "
            "--hopfield and without --stream"
        )
    if info.mode == "recover" and not recovers:
        raise ModelError(
            f"{file}: the model recovers masks from a Hopfield store, it has none to select; load "
            "it with load_hopfield, or run supsup-hopfield recover"
        )
    if info.mode != "recover" and recovers:
        raise ModelError(
            f"{file}: mode must be 'recover', got {info.mode!r}, a model with explicit masks; "
            "export the bank with --hopfield, or use load and supsup-run"
        )


def _refuse_too_large(file: Path, info: ModelInfo) -> None:
    needed, available = bytes_to_load(info, file.stat().st_size), available_bytes()
    remedy = _SMALLER_STORE if info.mode == "recover" else _FEWER_TASKS
    if available is not None and needed > available:
        raise ModelError(
            f"{file}: loading it takes about {needed >> 20} MiB of memory, {available >> 20} MiB "
            f"are available; {remedy}"
        )


def bytes_to_load(info: ModelInfo, file_bytes: int) -> int:
    """Estimate the peak memory of loading a model, in bytes.

    Args:
        info: Its metadata.
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
