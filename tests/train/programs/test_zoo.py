"""A sample of the zoo, trained, exported and compared; `tools/modules.py` tries all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.networks import NETWORKS
from zoo.operators import OPERATORS
from zoo.trial import attempt

SAMPLE = ["ConvNeXt", "SqueezeNet", "Embedding bag", "FNet", "Spatial transformer", "weight_norm"]
OPERATIONS = ["atan2 of 0", "adaptive_max_pool2d", "cumprod", "einsum (diagonal)", "RNN"]
OPERATIONS += ["spectral_norm", "InstanceNorm1d (running)", "attention (causal)"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SAMPLE, *OPERATIONS])
def test_modules_answer_as_trained(name: str, tmp_path: Path) -> None:
    outcome = attempt(*(NETWORKS | OPERATORS)[name], tmp_path)
    assert (outcome.verdict, outcome.reason) == ("one-shot", "")


@pytest.mark.slow
def test_a_gradient_that_cannot_be_exported_leaves_the_forward_pass(tmp_path: Path) -> None:
    outcome = attempt(*OPERATORS["linalg.det"], tmp_path)
    assert outcome.verdict == "forward alone"
    assert "aten.linalg" in outcome.reason


def test_a_refusal_is_told_from_a_fault(tmp_path: Path) -> None:
    refused = attempt(*OPERATORS["linalg.svdvals"], tmp_path / "refused")
    assert refused.verdict == "refused"
    assert "linalg_svd" in refused.reason

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError(x)

    assert attempt(Broken, (3,), tmp_path / "broken").verdict in ("broke", "refused")


def test_what_onnx_runtime_optimises_wrongly_is_refused_at_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supsup_train.programs.onnx_file._make_columns", lambda *_: None)
    outcome = attempt(*OPERATORS["matmul (vector)"], tmp_path)
    assert outcome.verdict == "broke"
    assert "ParityError: " in outcome.reason
    assert "logits of tasks [0] differs by" in outcome.reason


def test_the_zoo_has_enough_of_each() -> None:
    assert len(NETWORKS) >= 40
    assert len(OPERATORS) >= 270
