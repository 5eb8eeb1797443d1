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
from supsup_runtime.evaluation.tracking import evaluate_tracker

__all__ = [
    "LeftOut",
    "Measured",
    "auroc",
    "calibrate",
    "check_same_bank",
    "choose_samples",
    "evaluate",
    "evaluate_task",
    "evaluate_tracker",
    "evaluate_unnamed",
    "measure",
]
