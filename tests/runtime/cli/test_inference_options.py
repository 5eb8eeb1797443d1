"""Options of the method, on a model that is calibrated."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest

from supsup_runtime.cli.options import inference_of
from supsup_runtime.model.inference import Inference

CALIBRATED = Inference(method="verified", score="energy", candidates=8)
NONE: dict[str, Any] = {"method": None, "score": None, "candidates": None}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, CALIBRATED),
        ({"method": "auto"}, CALIBRATED),
        ({"candidates": 2}, Inference(method="verified", score="energy", candidates=2)),
        ({"score": "entropy"}, Inference(method="verified", score="entropy", candidates=8)),
        ({"method": "exhaustive"}, Inference(method="exhaustive")),
        ({"method": "verified", "candidates": 3}, Inference(method="verified", candidates=3)),
    ],
)
def test_options_change_what_the_calibration_found(
    given: dict[str, Any], wanted: Inference
) -> None:
    assert inference_of(Namespace(**{**NONE, **given}), CALIBRATED) == wanted
