"""The only module that imports onnxruntime.

A missing provider is an error here; ONNX Runtime itself would warn and run on the CPU. All that
ONNX Runtime raises becomes a `ModelError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import numpy as np

from supsup_runtime.arrays import (
    Array,
    Floats,
    Images,
    check_choice,
    check_kind,
    check_sequence,
    checked_threads,
)
from supsup_runtime.bank.fields import is_unicode
from supsup_runtime.errors import InputError, ModelError, ProviderUnavailableError
from supsup_runtime.model.protobuf import open_file, refuse_unsafe

Declared: TypeAlias = tuple[str, tuple[int | str | None, ...]]
"""Type of an input or output, such as ``tensor(float)``, and its shape with names of axes."""
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Outputs to compute, and the shape that each must have."""
Device = Literal["cpu", "cuda"]
CUDA = "CUDAExecutionProvider"
_PROVIDERS: dict[str, Any] = {"cpu": "CPUExecutionProvider", "cuda": (CUDA, {"use_tf32": "0"})}
"""Products in TF32, ONNX Runtime's default, round to 10 bits: beyond what the contract allows."""
_ON_CUDA = (CUDA, "NvTensorRTRTXExecutionProvider", "TensorrtExecutionProvider")
_MAX_FREE = 16
"""Bindings that a program keeps for reuse."""
_COPIED_BYTES = 64 << 10
"""Up to this size a copy into a bound buffer is cheaper than binding the caller's batch."""


class SessionOptions(TypedDict, total=False):
    """Options of `open_session`."""

    device: Device
    threads: int
    sess_options: Any
    providers: Sequence[Any] | None


class Session:
    """A typed ONNX Runtime session.

    Attributes:
        place: Name in messages.
        inputs: What it declares of its inputs, by name, those with a default included.
        outputs: The same of its outputs.
        optional: Names of inputs with a default.
    """

    def __init__(self, session: Any, place: str) -> None:  # noqa: ANN401 - onnxruntime has no types
        self._session = session
        self.place = place
        optional = session.get_overridable_initializers()  # inputs with a default
        self.inputs = _declared([*session.get_inputs(), *optional])
        self.outputs = _declared(session.get_outputs())
        self.optional = set(_declared(optional))
        self.input_names = tuple(self.inputs)
        self.output_names = tuple(self.outputs)
        self.providers = tuple(map(str, session.get_providers()))
        self._place = _place(self.providers, session.get_provider_options)

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the model."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run once; return arrays in the order of `outputs`, which have the declared sizes."""
        values = self._run(list(outputs), feeds)
        for name, value in zip(outputs, values, strict=True):
            declared = self.outputs[name][1]
            sizes = zip(declared, value.shape, strict=False)
            if declared and (  # empty: a scalar, or anything
                len(declared) != value.ndim
                or any(want != got for want, got in sizes if isinstance(want, int))
            ):
                raise _other_shape(self.place, name, declared, value.shape)
        return values

    def _run(self, outputs: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        try:
            values: list[Array] = self._session.run(outputs, feeds)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise failed_to_run(self.place, error) from error
        return values

    def answer(self, shapes: Shapes, feeds: Mapping[str, Array]) -> list[Array]:
        """Run once; return arrays of these shapes, or raise `ModelError`."""
        values = self._run([*shapes], feeds)
        for (name, shape), value in zip(shapes.items(), values, strict=True):
            if value.shape != shape:
                raise _other_shape(self.place, name, shape, value.shape)
        return values

    @property
    def device(self) -> Device:
        """Device of the session's tensors."""
        return self._place[0]

    def fetch(self, shapes: Shapes, feeds: Mapping[str, Array]) -> list[Any]:
        """Run once; return OrtValues of these shapes on the session's device."""
        try:
            binding = self._session.io_binding()
            for name, array in feeds.items():
                binding.bind_cpu_input(name, array)
            for name in shapes:
                binding.bind_output(name, *self._place)
            self._session.run_with_iobinding(binding)
            values = list(binding.get_outputs())
            found = [tuple(value.shape()) for value in values]
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise failed_to_run(self.place, error) from error
        for (name, shape), got in zip(shapes.items(), found, strict=True):
            if got != shape:
                raise _other_shape(self.place, name, shape, got)
        return values

    def bind(self, parts: Sequence[BoundPart], output: str, columns: int) -> BoundProgram:
        """Bind all inputs except `x`."""

        def bind() -> _Binding:
            binding = self._session.io_binding()
            for part in parts:
                address = part.value.data_ptr() + 4 * part.start
                binding.bind_input(part.name, *self._place, np.float32, part.shape, address)
            return _Binding(self, self._session, binding, output, columns)

        return BoundProgram(bind, parts, self.place)


def _place(
    providers: Sequence[str], options: Callable[[], Mapping[str, Mapping[str, str]]]
) -> tuple[Device, int]:
    """Return where a session's tensors are: the device, and its number."""
    name = next((name for name in _ON_CUDA if name in providers), None)
    return ("cuda", int(options()[name].get("device_id", 0))) if name else ("cpu", 0)


def _declared(values: Sequence[Any]) -> dict[str, Declared]:
    return {str(value.name): (str(value.type), tuple(value.shape)) for value in values}


def failed_to_run(place: str, error: Exception) -> ModelError:
    """Return what to raise for an error of ONNX Runtime in a call."""
    return ModelError(f"{place}: ONNX Runtime cannot run it: {_one_line(error)}")


def _other_shape(
    place: str, name: str, expected: tuple[int | str | None, ...], got: tuple[int, ...]
) -> ModelError:
    return ModelError(
        f"{place}: the graph contradicts its metadata: {name} must have shape {expected}, got "
        f"{got}; export the bank again"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundPart:
    """An input within a flat float32 OrtValue, from element `start` on."""

    name: str
    shape: tuple[int, ...]
    value: Any
    start: int


class BoundProgram:
    """A program ``(x, weights...) -> (batch, columns)`` with bound weights.

    Thread-safe: each run takes a free binding, or makes one. All share the weights.
    """

    def __init__(
        self, bind: Callable[[], _Binding], parts: Sequence[BoundPart], place: str
    ) -> None:
        self._bind = bind
        self._place = place
        self._parts = parts  # keeps the bound memory alive
        self._free: list[_Binding] = []

    def run(self, x: Images) -> Floats:
        """Run on a C-contiguous batch ``float32 (batch, ...)``; return a new array."""
        try:
            try:
                binding = self._free.pop()  # atomic, like append
            except IndexError:
                binding = self._bind()
            y = binding.run(x)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise failed_to_run(self._place, error) from error
        if len(self._free) < _MAX_FREE:
            self._free.append(binding)
        return y


class _Binding:
    """Bound weights and buffers, for one thread at a time.

    Copies small batches on the CPU alone: for other devices ONNX Runtime copies `x` when it is
    bound, not when it runs.
    """

    def __init__(
        self,
        opened: Session,
        session: Any,  # noqa: ANN401 - onnxruntime has no types
        binding: Any,  # noqa: ANN401 - as above
        output: str,
        columns: int,
    ) -> None:
        self._session = session
        self._binding = binding
        self._output = output
        self._columns = columns
        self._copied_bytes = _COPIED_BYTES if opened.device == "cpu" else -1
        self._x = np.empty(0, np.float32)
        self._y = np.empty((0, columns), np.float32)

    def run(self, x: Images) -> Floats:
        """See `BoundProgram.run`."""
        if x.nbytes > self._copied_bytes:
            self._x = np.empty(0, np.float32)  # our buffers are no longer bound
            y = self._bind(x)
            self._session.run_with_iobinding(self._binding)
            return y
        if x.shape != self._x.shape:
            self._x = np.empty(0, np.float32)  # stays if binding fails
            buffer = np.empty_like(x)
            self._y = self._bind(buffer)
            self._x = buffer
        np.copyto(self._x, x)
        self._session.run_with_iobinding(self._binding)
        return self._y.copy()

    def _bind(self, x: Images) -> Floats:
        y = np.empty((len(x), self._columns), np.float32)
        self._binding.bind_cpu_input("x", x)
        self._binding.bind_output(self._output, "cpu", 0, np.float32, y.shape, y.ctypes.data)
        return y


def open_session(
    model: Path | bytes,
    *,
    place: str,
    device: Device = "cpu",
    threads: int = 1,
    sess_options: Any = None,  # noqa: ANN401 - onnxruntime.SessionOptions
    providers: Sequence[Any] | None = None,
    optimised: bool = True,
) -> Session:
    """Open a model with the requested provider, or fail.

    Args:
        model: Path or bytes.
        place: Name in messages.
        device: First provider; nodes without a kernel there run on the CPU. ``cuda`` multiplies in
            float32; for TF32 give `providers`.
        threads: Threads per call, in ``[1, 1024]``; ignored with `sess_options`.
        sess_options: ``onnxruntime.SessionOptions``. On ARM, add session config
            ``mlas.disable_kleidiai`` = 1 for models of target cuda with int8 activations
            (docs/CONTRACT.md, "Targets").
        providers: Replace `device`.
        optimised: Whether ONNX Runtime may change the graph; ignored with `sess_options`.

    Raises:
        ProviderUnavailableError: If onnxruntime or the provider is missing or fails to load, or
            both onnxruntime wheels are installed.
        ModelError: If ONNX Runtime cannot read the model, or a tensor's data are in another file.
        InputError: If `device` or `threads` is out of range, or `providers` is empty.
    """
    onnxruntime = import_onnxruntime()
    wanted = [_provider(device)] if providers is None else _providers(providers)
    name = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    available = onnxruntime.get_available_providers()
    if name not in available:
        asked = f"device {device!r}" if providers is None else f"providers={wanted}"
        raise ProviderUnavailableError(
            f"{asked} needs {name}; onnxruntime {onnxruntime.__version__} has only "
            f"{available}; install supsup[gpu] instead of supsup[cpu]"
        )
    options = sess_options
    if options is None:
        options = _options(onnxruntime, threads)
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    check_kind("sess_options", options, onnxruntime.SessionOptions, "onnxruntime.SessionOptions")
    with BytesIO(model) if isinstance(model, bytes) else open_file(model) as file:
        refuse_unsafe(file, place=place)
    source = model if isinstance(model, bytes) else str(model)
    if isinstance(source, str) and not is_unicode(source):
        raise ModelError(f"{place}: ONNX Runtime opens only paths in UTF-8; rename file or folder")
    try:
        # without its fallback, which prints and tries again
        session = onnxruntime.InferenceSession(
            source, options, providers=wanted, enable_fallback=False
        )
        opened = Session(session, place)
    except Exception as error:  # as above
        raise ModelError(f"{place}: ONNX Runtime cannot load it: {_one_line(error)}") from error
    if opened.providers[0] != name:  # available, but failed to load
        raise ProviderUnavailableError(
            f"{name} failed to load and onnxruntime fell back to {opened.providers[0]}; "
            "its log above names the missing library"
        )
    return opened


def _providers(given: Sequence[Any]) -> list[Any]:
    check_sequence("providers", given, "a list of names or (name, options)")
    for each in given:
        name, options = each if isinstance(each, tuple) and len(each) == 2 else (each, {})
        check_kind("providers: a name", name, str, "text")
        check_kind("providers: options", options, dict, "a dict")
    if not len(given):
        raise InputError("providers must name at least one, got none")
    return list(given)


def _provider(device: str) -> str | tuple[str, dict[str, str]]:
    check_choice("device", device, get_args(Device))
    provider: str | tuple[str, dict[str, str]] = _PROVIDERS[device]
    return provider


def _options(onnxruntime: Any, threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = checked_threads(threads)
    options.inter_op_num_threads = 1
    # idle threads must not spin on the cores of the application
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # on ARM its 4-bit kernels round a whole row by one scale: scores off by 1e-2
    options.add_session_config_entry("mlas.disable_kleidiai", "1")
    options.log_severity_level = 4  # errors are raised
    return options


@cache
def import_onnxruntime() -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Import onnxruntime.

    Raises:
        ProviderUnavailableError: If it is not installed, or both of its wheels are.
    """
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
