from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from supsup_runtime.errors import InputError, ModelError, ProviderUnavailableError
from supsup_runtime.model.session import (
    CUDA,
    BoundPart,
    Session,
    _Binding,
    import_onnxruntime,
    open_session,
)


@pytest.fixture(autouse=True)
def _imported_again() -> None:
    import_onnxruntime.cache_clear()


def test_cuda_asked_for_where_there_is_none_is_an_error() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("a CUDA device is available")
    with pytest.raises(ProviderUnavailableError, match=r"needs CUDAExecution.*supsup\[gpu\]"):
        open_session(b"", place="m", device="cuda")


def test_both_wheels_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "onnxruntime_gpu-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ProviderUnavailableError, match=r"both installed.*pip uninstall both"):
        open_session(b"", place="m")


def test_no_onnxruntime_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ProviderUnavailableError, match=r"not installed; pip install 'supsup"):
        open_session(b"", place="m")


def test_arguments_and_models_are_checked() -> None:
    with pytest.raises(InputError, match="device must be one of"):
        open_session(b"", place="m", device="tpu")  # type: ignore[arg-type]  # on purpose
    for threads in (0, -1, 1025, 1.5):
        message = rf"threads must be an integer in \[1, 1024\], got {threads}"
        with pytest.raises(InputError, match=message):
            open_session(b"", place="m", threads=threads)  # type: ignore[arg-type]  # 1.5, on purpose
    with pytest.raises(ModelError, match="place: ONNX Runtime cannot load it"):
        open_session(b"", place="place")
    with pytest.raises(ModelError, match="place: not an ONNX model, or cut short"):
        open_session(b"garbage", place="place")
    with pytest.raises(InputError, match="providers must name at least one"):
        open_session(b"", place="m", providers=[])
    with pytest.raises(ModelError, match=r"none\.onnx: no such file"):
        open_session(Path("none.onnx"), place="m")


def test_sessions_sleep_and_keep_our_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between calls the application has its cores; on ARM, MatMulNBits takes a scale a block."""
    import onnxruntime

    opened = Mock(side_effect=onnxruntime.InferenceSession)
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    with pytest.raises(ModelError):
        open_session(b"", place="m", threads=2)
    options = opened.call_args.args[1]
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("mlas.disable_kleidiai") == "1"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_providers_that_are_not_there_are_named_as_asked_for() -> None:
    asked: list[list[Any]] = [["NoExecutionProvider"], [("NoExecutionProvider", {})]]
    for providers in asked:
        message = rf"^providers={re.escape(str(providers))} needs NoExecutionProvider; onnx"
        with pytest.raises(ProviderUnavailableError, match=message):
            open_session(b"", place="m", providers=providers)


@pytest.mark.parametrize(
    ("providers", "device"),
    [
        (["CPUExecutionProvider"], "cpu"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "cuda"),
        (["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"], "cuda"),
        (["TensorrtExecutionProvider", "CPUExecutionProvider"], "cuda"),
        (["OpenVINOExecutionProvider", "CPUExecutionProvider"], "cpu"),
    ],
)
def test_the_device_is_that_of_any_provider(providers: list[str], device: str) -> None:
    fake = Mock()
    fake.get_inputs.return_value = fake.get_outputs.return_value = []
    fake.get_overridable_initializers.return_value = []
    fake.get_providers.return_value = providers
    fake.get_provider_options.return_value = {name: {} for name in providers}
    assert Session(fake, "m").device == device


def test_weights_stay_on_the_card_that_was_asked_for() -> None:
    """They are fetched to it, and bound there by address; only `x` and logits cross in a call."""
    fake, weights = Mock(), Mock()
    fake.get_inputs.return_value = fake.get_outputs.return_value = []
    fake.get_overridable_initializers.return_value = []
    fake.get_providers.return_value = [CUDA, "CPUExecutionProvider"]
    fake.get_provider_options.return_value = {CUDA: {"device_id": "1"}}
    session, binding = Session(fake, "m"), fake.io_binding.return_value
    weights.shape.return_value, weights.data_ptr.return_value = [6], 1000
    binding.get_outputs.return_value = [weights]
    assert session.fetch({"parameters": (6,)}, {}) == [weights]
    binding.bind_output.assert_called_once_with("parameters", "cuda", 1)
    x, part = np.ones((2, 3), np.float32), BoundPart(name="w", shape=(2,), value=weights, start=4)
    program = session.bind([part], "logits", 5)
    for _ in range(3):
        assert program.run(x).shape == (2, 5)
    binding.bind_input.assert_called_once_with("w", "cuda", 1, np.float32, (2,), 1016)
    assert [call.args[0] for call in binding.bind_cpu_input.call_args_list] == ["x"] * 3
    assert {call.args[1] for call in binding.bind_output.call_args_list[1:]} == {"cpu"}
    fake.run.assert_not_called()
    weights.numpy.assert_not_called()


def test_cuda_multiplies_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    opened = Mock(side_effect=RuntimeError)
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    with pytest.raises(ModelError):
        open_session(b"", place="m", device="cuda")
    assert opened.call_args.kwargs["providers"] == [(CUDA, {"use_tf32": "0"})]


class Device:
    """A session and binding that copy `x` when it is bound, as ONNX Runtime does for CUDA."""

    device = "cuda"

    def bind_cpu_input(self, _name: str, x: np.ndarray[Any, Any]) -> None:
        self.copied = x.copy()

    def bind_output(self, *arguments: Any) -> None:
        self.address = arguments[-1]

    def run_with_iobinding(self, binding: Device) -> None:
        result = np.ascontiguousarray(2 * binding.copied)
        ctypes.memmove(binding.address, result.ctypes.data, result.nbytes)


def test_a_device_gets_every_batch() -> None:
    fake = Device()
    program = _Binding(fake, fake, fake, "logits", 3)  # type: ignore[arg-type]  # a fake
    for value in (1.0, 2.0):
        x = np.full((2, 3), value, np.float32)
        np.testing.assert_array_equal(program.run(x), 2 * x)
