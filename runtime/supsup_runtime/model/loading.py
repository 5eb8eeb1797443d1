"""Check and open a model file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from supsup_runtime.errors import ModelError
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.protobuf import read_metadata
from supsup_runtime.model.session import Session, SessionOptions, open_session

_FEWER_TASKS = (
    "export fewer tasks or with --target portable, which takes the least memory, or load with "
    "check_memory=False"
)
_SMALLER_STORE = "encode the bank's tasks with --dtype float16, or load with check_memory=False"
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_PEAK = {"cpu": 6, "cuda": 10.5, "portable": 2, "recover": 4}
"""Peak memory of loading, in file sizes (docs/PERFORMANCE.md): file, masks in ONNX Runtime, codes
(2 or 4 bits per weight), repacked codes. `recover`: 330 MB for 88 MB, fixed layers three times."""
_RESIDENT = {"cpu": 4.5, "cuda": 7.5, "portable": 1.5, "recover": 4}
"""The same once loaded."""
_SESSIONS = 12 << 20
"""Bytes of two sessions of ONNX Runtime, whatever the model."""
_WEIGHT_SCORED, _WEIGHT_SELECTED = 80, 24
"""Bytes per masked weight at the peak, for its values in float32 several times."""
_KEPT = 32 << 20
"""Bytes that the allocator of C may keep once they are free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """Metadata, graph and forward program of a model."""

    info: ModelInfo
    session: Session
    forward: Session


def open_model(
    path: str | Path, *, recovers: bool, check_memory: bool, **session: Unpack[SessionOptions]
) -> OpenedModel:
    """Open a model of mode `recover` if `recovers`, else one with explicit masks.

    Raises:
        ModelError: Before loading, if the file is missing, not a supsup model, of another
            contract or kind, or, with `check_memory`, too large for the memory available; later,
            if it was replaced meanwhile.
        ProviderUnavailableError: As `open_session`.
        InputError: As `open_session`.
    """
    file = Path(path)
    if file.is_dir():
        raise ModelError(f"{file}: must be a model file, got a folder; export the bank first")
    if not file.is_file():
        raise ModelError(f"{file}: no such file; make it with supsup-export")
    before = _identity(file)
    info = ModelInfo.from_metadata(read_metadata(file), place=str(file))
    _refuse_kind(file, info, recovers=recovers)
    if check_memory:
        _refuse_too_large(file, info)
    opened = open_session(file, place=str(file), **session)
    if _identity(file) != before:
        raise ModelError(f"{file}: the file was replaced while it was loaded; load it again")
    forward = open_session(info.forward, place=f"{file}: its forward program", **session)
    return OpenedModel(info=info, session=opened, forward=forward)


def _identity(file: Path) -> tuple[int, ...]:
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
            f"{file}: the model recovers masks from a Hopfield store and has no explicit masks; "
            "load it with load_hopfield, or run supsup-hopfield recover"
        )
    if info.mode != "recover" and recovers:
        raise ModelError(
            f"{file}: mode must be 'recover', got {info.mode!r}, a model with explicit masks; "
            "export the bank with --hopfield, or use load and supsup-run"
        )


def _refuse_too_large(file: Path, info: ModelInfo) -> None:
    (needed, _), available = bytes_to_load(info, file.stat().st_size), available_bytes()
    remedy = _SMALLER_STORE if info.mode == "recover" else _FEWER_TASKS
    if available is not None and needed > available:
        raise ModelError(
            f"{file}: loading it takes about {needed >> 20} MiB of memory, {available >> 20} MiB "
            f"are available; {remedy}"
        )


def bytes_to_load(info: ModelInfo, file_bytes: int) -> tuple[int, int]:
    """Estimate the memory at the peak of loading and after it, in bytes."""
    by_mode = {"known": "portable", "recover": "recover", "recover-stream": "recover"}
    kind = by_mode.get(info.mode, info.target)
    scores = info.mode in {"full", "infer"}
    weight = _WEIGHT_SCORED if scores else _WEIGHT_SELECTED
    fixed = _SESSIONS + weight * info.network.num_masked
    peak = int(_PEAK[kind] * file_bytes) + fixed
    return peak, min(peak, int(_RESIDENT[kind] * file_bytes) + fixed + _KEPT)


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Return the bytes available without swapping, within cgroup v2's limit; None if unknown."""
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
    """Return the bytes of the file cache, which is freed on demand."""
    pairs = (line.split() for line in stat.read_text().splitlines())
    return sum(int(value) for key, value in pairs if key in {"active_file", "inactive_file"})
