"""The one module that knows onnxruntime.

A provider that was asked for and is not there is an error: ONNX Runtime itself would warn and run
on the CPU, which on a board whose budget assumed the GPU is a wrong answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from supsup_runtime.errors import InputError, ModelError, ProviderUnavailableError

__all__ = ["Device", "Session", "open_session"]

Device = Literal["cpu", "cuda"]
Array = npt.NDArray[Any]
_PROVIDERS: dict[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
MAX_THREADS = 1024


class Session:
    """An ONNX Runtime session, typed."""

    def __init__(self, session: Any, place: str) -> None:  # noqa: ANN401 - onnxruntime has no types
        self._session = session
        self.place = place
        self.input_names = tuple(str(value.name) for value in session.get_inputs())
        self.output_names = tuple(str(value.name) for value in session.get_outputs())
        self.providers = tuple(map(str, session.get_providers()))

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run once; arrays in, arrays out, in the order of `outputs`."""
        result: list[Array] = self._session.run(list(outputs), dict(feeds))
        return result

    def hold(self, array: Array) -> Any:  # noqa: ANN401 - an OrtValue
        """Keep an array on the session's device, for `run_held`."""
        import onnxruntime

        device = "cuda" if self.providers[0] == _PROVIDERS["cuda"] else "cpu"
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)

    def run_held(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Array]:
        """Run once with values from `hold`; arrays out."""
        values = self._session.run_with_ort_values(list(outputs), dict(feeds))
        return [np.asarray(value.numpy()) for value in values]


def open_session(
    model: Path | bytes,
    *,
    place: str,
    device: Device = "cpu",
    threads: int = 1,
    sess_options: Any = None,  # noqa: ANN401 - onnxruntime.SessionOptions
    providers: Sequence[Any] | None = None,
) -> Session:
    """Open a model with the provider asked for, or fail.

    Args:
        model: Path of the file, or its bytes.
        place: What messages call it.
        device: First provider; nodes it has no kernel for still run on the CPU.
        threads: Threads of one call, in ``[1, 1024]``; ignored where `sess_options` is given.
        sess_options: An ``onnxruntime.SessionOptions`` of your own.
        providers: Providers of your own, as ONNX Runtime takes them, in place of `device`.

    Raises:
        ProviderUnavailableError: If onnxruntime or the provider is missing, two onnxruntime
            wheels are installed, or the provider fails to load.
        ModelError: If ONNX Runtime cannot read the model.
        InputError: If `device` or `threads` is out of range, or `providers` is empty.
    """
    onnxruntime = _import()
    wanted = list(providers) if providers is not None else [_provider(device)]
    if not wanted:
        raise InputError("providers must name at least one, got none")
    name = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    available = onnxruntime.get_available_providers()
    if name not in available:
        raise ProviderUnavailableError(
            f"device {device!r} needs {name}; this onnxruntime {onnxruntime.__version__} offers "
            f"{available}; install supsup[gpu] in place of supsup[cpu]"
        )
    options = sess_options or _options(onnxruntime, threads)
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=wanted)
    except _ort_errors() as error:
        raise ModelError(f"{place}: ONNX Runtime cannot load it: {_one_line(error)}") from error
    opened = Session(session, place)
    if opened.providers[0] != name:  # listed as available, yet failed to load
        raise ProviderUnavailableError(
            f"{name} failed to load and onnxruntime fell back to {opened.providers[0]}; "
            "its log above names the missing library"
        )
    return opened


def _provider(device: str) -> str:
    if device not in get_args(Device):
        raise InputError(f"device must be one of {list(get_args(Device))}, got {device!r}")
    return _PROVIDERS[device]


def _options(onnxruntime: Any, threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    if not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads must be an integer in [1, {MAX_THREADS}], got {threads}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads sleep: an application that embeds the runtime keeps its cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; what ONNX Runtime warns of here, we refuse
    return options


def _import() -> Any:  # noqa: ANN401 - onnxruntime has no types
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise ProviderUnavailableError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "pip uninstall both, then install supsup[cpu] or supsup[gpu]"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderUnavailableError(
            "running a model needs onnxruntime, which is not installed; "
            "pip install 'supsup[cpu]' (or 'supsup[gpu]')"
        ) from error
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _ort_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # onnxruntime gives its errors no common base but Exception
    names = [
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoModel",
        "NoSuchFile",
        "NotFound",
    ]
    names += ["NotImplemented", "RuntimeException", "EPFail", "EngineError"]
    return tuple(getattr(state, name) for name in names)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
