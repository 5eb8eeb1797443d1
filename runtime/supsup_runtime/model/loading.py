"""A model file, opened: what it says of itself first, then its two sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supsup_runtime.errors import ModelError
from supsup_runtime.model.memory import available_bytes, bytes_to_load
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.protobuf import read_metadata
from supsup_runtime.model.session import Device, Session, open_session

__all__ = ["OpenedModel", "open_model"]

_FEWER_TASKS = (
    "export fewer tasks, or, if it is not yet, with --target portable, which takes least (or load "
    "with check_memory=False)"
)
_SMALLER_STORE = "encode the bank's tasks with --dtype float16, or load with check_memory=False"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A model's metadata, its graph, and its forward program."""

    info: ModelInfo
    session: Session
    forward: Session


def open_model(
    path: str | Path,
    *,
    recovers: bool,
    device: Device,
    threads: int,
    sess_options: Any,  # noqa: ANN401 - onnxruntime.SessionOptions
    providers: Sequence[Any] | None,
    check_memory: bool,
) -> OpenedModel:
    """Open a model of the kind wanted.

    Args:
        path: The ``.onnx`` file.
        recovers: Whether it must be one that recovers masks, or one that has them.
        device: As `open_session`; so are `threads`, `sess_options` and `providers`.
        threads: See there.
        sess_options: See there.
        providers: See there.
        check_memory: Refuse a model that the memory at hand cannot hold while it loads.

    Raises:
        ModelError: If the file is missing, not a model of supsup, of another contract or of the
            other kind, or too large for the memory at hand; all before it is loaded.
        ProviderUnavailableError: As `open_session`.
        InputError: As `open_session`.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file}: no such file; make it with supsup-export")
    info = ModelInfo.from_metadata(read_metadata(file), place=str(file))
    _refuse_kind(file, info, recovers=recovers)
    if check_memory:
        _refuse_too_large(file, info)

    def opened(model: Path | bytes, place: str) -> Session:
        return open_session(
            model,
            place=place,
            device=device,
            threads=threads,
            sess_options=sess_options,
            providers=providers,
        )

    return OpenedModel(
        info=info,
        session=opened(file, str(file)),
        forward=opened(info.forward, f"{file}: its forward program"),
    )


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
            "it with load_hopfield, or run supsup-run --recover"
        )
    if info.mode != "recover" and recovers:
        raise ModelError(
            f"{file}: mode must be 'recover', got {info.mode!r}, a model with explicit masks; "
            "export the bank with --hopfield, or use load and supsup-run without --recover"
        )


def _refuse_too_large(file: Path, info: ModelInfo) -> None:
    needed, available = bytes_to_load(info, file.stat().st_size), available_bytes()
    remedy = _SMALLER_STORE if info.mode == "recover" else _FEWER_TASKS
    if available is not None and needed > available:
        raise ModelError(
            f"{file}: loading it takes about {needed >> 20} MiB of memory, {available >> 20} MiB "
            f"are at hand; {remedy}"
        )
