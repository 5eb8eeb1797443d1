"""Check and open a model file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Unpack

from supsup_runtime.errors import ModelError
from supsup_runtime.memory import available_bytes
from supsup_runtime.model.agreement import check_agreement
from supsup_runtime.model.host import advice
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.origin import Origin, identify
from supsup_runtime.model.protobuf import read_metadata
from supsup_runtime.model.session import CUDA, Session, SessionOptions, open_session

_LOG = logging.getLogger("supsup.model.loading")
_FEWER_TASKS = (
    "export fewer tasks or with --target portable, which takes the least memory, or load with "
    "check_memory=False"
)
_SMALLER_STORE = "encode the bank's tasks with --dtype float16, or load with check_memory=False"
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
    """Metadata, graph and forward program of a model, which agree; and its file."""

    info: ModelInfo
    session: Session
    forward: Session
    origin: Origin


def open_model(
    path: str | Path, *, recovers: bool, check_memory: bool, **session: Unpack[SessionOptions]
) -> OpenedModel:
    """Open a model of mode `recover` if `recovers`, else one with explicit masks.

    Raises:
        ModelError: Before loading, if the file is missing, not a supsup model, of another
            contract or kind, or, with `check_memory`, too large for the memory available; later,
            if it was replaced meanwhile, or its graph contradicts its metadata.
        FileError: If the system cannot open or read the file.
        ProviderUnavailableError: As `open_session`.
        InputError: As `open_session`.
    """
    file, since = Path(path), perf_counter()
    before = identify(file)
    info = ModelInfo.from_metadata(read_metadata(file), place=str(file))
    _refuse_kind(file, info, recovers=recovers)
    if check_memory:
        _refuse_too_large(file, info)
    opened = open_session(file, place=str(file), **session)
    if identify(file) != before:
        raise ModelError(f"{file}: the file was replaced while it was loaded; load it again")
    if unfit := unfit_for(info, opened.providers):
        raise ModelError(f"{file}: {unfit}")
    forward = open_session(info.forward, place=f"{file}: its forward program", **session)
    check_agreement(info, opened, forward)
    _LOG.info(
        "%s: loaded %d tasks, mode %s, by %s, %d bytes, in %.3f seconds",
        *(file, len(info.tasks), info.mode, opened.providers[0], before[-1]),
        perf_counter() - since,
    )
    if text := advice_on(info):
        _warn_once(text)
    options = {**session, "check_memory": check_memory}
    origin = Origin(file=file.absolute(), identity=before, options=options)
    return OpenedModel(info=info, session=opened, forward=forward, origin=origin)


def advice_on(info: ModelInfo) -> str:
    """Say which target is faster on this processor; empty if none is known to be."""
    return advice("--target cpu", "--target portable") if _has_two_bits(info) else ""


def unfit_for(info: ModelInfo, providers: Sequence[str]) -> str:
    """Say why CUDA must not run a model: it takes codes of 2 bits for 4; empty if it may."""
    if CUDA not in providers or not _has_two_bits(info):
        return ""
    return (
        f"target must be cuda or portable for {CUDA}, which has no kernel for 2 bits, got cpu; "
        "export the bank again with --target cuda"
    )


def _has_two_bits(info: ModelInfo) -> bool:
    scores = info.mode in {"full", "infer"} and info.network.num_masked > 0
    return scores and info.target == "cpu"


@cache
def _warn_once(text: str) -> None:
    _LOG.warning(text)


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
