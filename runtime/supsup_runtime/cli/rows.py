"""Inputs from a file, and a prediction as a table of rows."""

from __future__ import annotations

from pathlib import Path

from supsup_runtime.arrays import Images
from supsup_runtime.console import read_array, to_table
from supsup_runtime.model.prediction import Prediction

__all__ = ["prediction_text", "read_inputs"]


def read_inputs(path: Path, input_shape: tuple[int, ...]) -> Images:
    """A batch from a ``.npy`` file, or one input as a batch of one; the model checks it."""
    x = read_array(path)
    return x[None] if x.shape == input_shape else x


def prediction_text(prediction: Prediction) -> str:
    """A row for each input; whether its task is known where the model can tell."""
    judged = prediction.known if None not in prediction.known else ()
    header = ("row", "task", "label", "logit", *(["known"] if judged else []))
    answers = zip(prediction.tasks, prediction.labels, prediction.label_indices, strict=True)
    rows = [
        (
            row,
            task.name,
            label,
            f"{prediction.logits[row, index]:.3f}",
            *("yes" if known else "no" for known in judged[row : row + 1]),
        )
        for row, (task, label, index) in enumerate(answers)
    ]
    return to_table(header, rows)
