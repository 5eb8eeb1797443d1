"""Measure models on a stream of tasks: accuracy, speed, calibration."""

from supsup_runtime.evaluation.accuracy import evaluate, evaluate_task, evaluate_unnamed
from supsup_runtime.evaluation.calibration import (
    LeftOut,
    Measured,
    auroc,
    calibrate,
    check_same_bank,
    choose_samples,
    measure,
)

__all__ = [
    "LeftOut",
    "Measured",
    "auroc",
    "calibrate",
    "check_same_bank",
    "choose_samples",
    "evaluate",
    "evaluate_task",
    "evaluate_unnamed",
    "measure",
]
