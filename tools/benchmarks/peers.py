"""Alternatives to supsup, each written as its user would write it.

All use the same masks, weights and input. Those in torch differentiate the objective of the
exported model; networks are fully connected, with ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from tools.benchmarks.banks import float_model, task_weights
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.objectives import entropy

Images = npt.NDArray[np.float32]


def mlp(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Apply layers ``(out, in)`` with ReLU between them: ``(batch, in)`` to ``(batch, out)``."""
    for weight in weights[:-1]:
        x = torch.relu(linear(x, weight))
    return linear(x, weights[-1])


def objective(logits: Tensor, name: str, real_outputs: int) -> Tensor:
    """Return H or G of the paper, a mean over the batch."""
    if name == "entropy":
        logs = log_softmax(logits, dim=1)
        return -(logs.exp() * logs).sum(1).mean()
    parts = [logits[:, :real_outputs].detach(), logits[:, real_outputs:]]
    return torch.cat(parts, dim=1).logsumexp(1).mean()


def authors_bytes(network: Network, tasks: int) -> int:
    """Return bytes of `AuthorsFormula`: masks, and products of the largest layer, both ways."""
    largest = max(p.size for p in network.parameters)
    return 4 * tasks * (network.num_masked + 2 * largest)


class AuthorsFormula:
    """The authors' formula with autograd: weight = W * sum_i alpha_i M_i (paper, equation 4)."""

    def __init__(self, network: Network, masks: Tensor, objective_name: str) -> None:
        """View ``float32 (tasks, num_masked)`` as stacks ``(tasks, *shape)``."""
        self._weights = [torch.from_numpy(w) for w in network.weights()]
        sizes = [p.size for p in network.parameters]
        self._stacks = [
            part.view(-1, *p.shape)
            for part, p in zip(torch.split(masks, sizes, dim=1), network.parameters, strict=True)
        ]
        self._objective = objective_name
        self._real_outputs = network.real_outputs

    def __call__(self, x: Tensor) -> tuple[int, Tensor]:
        """The task of a batch, and its logits."""
        tasks = len(self._stacks[0])
        alphas = torch.full((tasks,), 1 / tasks, requires_grad=True)
        effective = [
            weight * (alphas.view(-1, *[1] * weight.ndim) * stack).sum(0)
            for weight, stack in zip(self._weights, self._stacks, strict=True)
        ]
        loss = objective(mlp(x, effective), self._objective, self._real_outputs)
        (gradient,) = torch.autograd.grad(loss, alphas)
        task = int((-gradient).argmax())
        with torch.inference_mode():
            chosen = [w * s[task] for w, s in zip(self._weights, self._stacks, strict=True)]
            return task, mlp(x, chosen)


class FloatMatrix:
    """The same algebra as one pass through the mean mask and one float matrix product."""

    def __init__(self, network: Network, masks: Tensor, objective_name: str) -> None:
        """Take masks ``float32 (tasks, num_masked)`` and compute their mean once."""
        self._masks = masks
        self._shapes = [p.shape for p in network.parameters]
        self._sizes = [p.size for p in network.parameters]
        self._flat = torch.cat([torch.from_numpy(w).flatten() for w in network.weights()])
        self._uniform = self._cut(self._flat * masks.mean(0))
        self._objective = objective_name
        self._real_outputs = network.real_outputs

    def _cut(self, flat: Tensor) -> list[Tensor]:
        parts = zip(torch.split(flat, self._sizes), self._shapes, strict=True)
        return [part.view(shape) for part, shape in parts]

    def __call__(self, x: Tensor) -> tuple[int, Tensor]:
        """The task of a batch, and its logits."""
        effective = [w.detach().requires_grad_() for w in self._uniform]
        loss = objective(mlp(x, effective), self._objective, self._real_outputs)
        gradients = torch.autograd.grad(loss, effective)
        with torch.inference_mode():
            vector = self._flat * torch.cat([g.flatten() for g in gradients])  # (num_masked,)
            task = int((-(self._masks @ vector)).argmax())
            return task, mlp(x, self._cut(self._flat * self._masks[task]))


def open_onnx(model: Path | bytes, threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Open a plain ONNX Runtime session on the CPU.

    Idle threads sleep, as in supsup: spinning threads would slow the next candidate.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def one_model_a_task(bank: MaskBank, threads: int) -> Callable[[Images], int]:
    """Return a call that runs one float32 model per task; the lowest entropy wins."""
    sessions = [open_onnx(float_model(bank, i), threads) for i in range(len(bank))]

    def call(x: Images) -> int:
        tried = np.concatenate([session.run(["logits"], {"x": x})[0] for session in sessions])
        return int(entropy(tried).reshape(len(sessions), len(x)).mean(1).argmin())

    return call


class SwappedAdapters:
    """ONNX Runtime's adapters: one base model, and float weights per task (``.onnx_adapter``).

    They run a known task and switch, but cannot infer the task.
    """

    def __init__(self, bank: MaskBank, folder: Path, tasks: int, threads: int) -> None:
        """Write adapters of the first `tasks` tasks into `folder` and load them."""
        self._session = open_onnx(float_model(bank, 0, overridable=True), threads)
        folder.mkdir(exist_ok=True)
        self._files = [folder.absolute() / f"{index}.onnx_adapter" for index in range(tasks)]
        for index, file in enumerate(self._files):
            _write_adapter(task_weights(bank, index), file)
        self._active = [_activated(file) for file in self._files]

    def known(self, x: Images, task: int) -> npt.NDArray[np.float32]:
        """Return logits ``float32 (batch, outputs)`` with a loaded adapter."""
        return self._run(x, self._active[task][0])

    def from_file(self, x: Images, task: int) -> npt.NDArray[np.float32]:
        """Load the adapter, then run it."""
        options, _adapter = _activated(self._files[task])
        return self._run(x, options)

    def _run(self, x: Images, options: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401 - as above
        logits: npt.NDArray[np.float32] = self._session.run(["logits"], {"x": x}, options)[0]
        return logits


def _write_adapter(weights: dict[str, npt.NDArray[np.float32]], file: Path) -> None:
    """Write weights, which must live until then: an OrtValue on the CPU is a view."""
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(weight) for name, weight in weights.items()
    }
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters(values)
    adapter.export_adapter(str(file))


def _activated(file: Path) -> tuple[Any, Any]:
    """Return run options with an adapter, and the adapter, which must outlive them."""
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(file))
    options = onnxruntime.RunOptions()
    options.add_active_adapter(adapter)
    return options, adapter
