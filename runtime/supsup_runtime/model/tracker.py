"""The task of a stream of frames, by a Bayes filter over tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from supsup_runtime.arrays import Given, Scores, about, check_number, checked_outputs, shown
from supsup_runtime.bank.calibration import JUDGING
from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import (
    Auto,
    Inference,
    adjustment_of,
    resolved_score,
    score_tasks,
    threshold_of,
)
from supsup_runtime.model.loaded import Loaded
from supsup_runtime.model.metadata import TaskInfo
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.objectives import Score

_LEAST_DOUBT = 1e-3
"""Entropy, or probability of another answer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Posterior:
    """What a tracker believes after a frame.

    Attributes:
        task: The likeliest task; None if "no known task" is likelier.
        known: Whether there is one; None if the model is not calibrated for the method and score.
        probabilities: Of each task, ``float64 (tasks,)`` in ``[0, 1]``.
        unknown: Probability of "no known task", 0 if not calibrated; with `probabilities` it sums
            to 1.
        prediction: Logits and label of the frame through `task`; None without a task.
    """

    task: TaskInfo | None
    known: bool | None
    probabilities: Scores
    unknown: float
    prediction: Prediction | None

    def __repr__(self) -> str:
        if self.task is None:
            return about(self, f"no known task {self.unknown:.4g}")
        chance = self.probabilities[self.task.index]
        known = "" if self.known is None else f"known {self.known}"
        return about(self, f"{shown(self.task.name)} {chance:.4g}", known)


class Tracker:
    """Follows the task of one stream, in which most frames are of the task of the frame before.

    A hidden Markov model: with probability ``1 - switch`` a frame has the task of the frame before,
    else any other, equally likely, as all are for the first frame. If the model is calibrated
    for the method and score, "no known task" is one more.

    The evidence of a frame are its scores through the masks (`log_likelihoods`). "No known task"
    has the calibrated threshold as its score, so the first frame alone is refused where
    `TaskInference.known` is False. Frames count as independent; those of a video resemble each
    other, so probabilities are too sure, though the task may be right.

    Memory does not grow with frames. Threads may share a tracker: their calls wait for each
    other, in any order.
    """

    def __init__(
        self, now: Callable[[], Loaded], switch: float, method: Auto | Inference | None
    ) -> None:
        check_number("switch", switch, lambda s: 0 <= s <= 1, "a number in [0, 1]")
        self._now, self._switch, self._method = now, float(switch), method
        self._taking = Lock()
        self._states: list[str | None] = []
        self._believed: Scores = np.zeros(0)
        self._how(now())

    def __repr__(self) -> str:
        return about(self, f"switch {self._switch:g}", "" if self._states else "no frames yet")

    def reset(self) -> None:
        """Forget all frames."""
        with self._taking:
            self._states = []

    def update(self, x: Given) -> Posterior:
        """Take the next frames of the stream; after an error, none of them is taken.

        After `Model.reload` it goes on if the tasks have the same names in the same order and the
        model is calibrated, or not, as before; else it starts anew with these frames.

        Args:
            x: One or more frames in their order, a row each, as in `Model.predict`.

        Returns:
            The belief after the last of them, and this frame's prediction.

        Raises:
            InputError: As `Model.predict`.
            ModelError: If the model is closed.
        """
        with self._taking:
            return self._taken(x, self._now())

    def _taken(self, x: Given, loaded: Loaded) -> Posterior:
        x, (how, score) = loaded.prepared(x), self._how(loaded)
        # one row alone is a batch, whose one-shot pass has logits, too
        adjustment = adjustment_of(loaded.info, how)
        scores, _, logits = score_tasks(
            loaded.engine, x, how, per_image=len(x) > 1, adjustment=adjustment
        )
        kind = score if adjustment is None else None
        evidence, threshold = log_likelihoods(scores, kind), threshold_of(loaded.info, how)
        calibrated, tasks = threshold is not None, loaded.info.tasks
        if threshold is not None:
            unknown = log_likelihoods(np.full((len(x), 1), threshold), kind)
            evidence = np.concatenate([evidence, unknown], axis=1)
        states = [*(task.name for task in tasks), *[None] * calibrated]
        believed = np.full(len(states), -math.log(len(states)))
        if states == self._states:
            believed = self._believed
        for frame in evidence:
            believed = filtered(believed, frame, self._switch)
        best, prediction = int(believed.argmax()), None
        task = tasks[best] if best < len(tasks) else None
        if task is not None:
            seen = logits is not None and scores[-1].argmax() == best
            own = logits[-1:] if logits is not None and seen else loaded.logits(x[-1:], (task,))
            own = checked_outputs(own, "logits", loaded.place)
            prediction = Prediction(logits=own, tasks=(task,))
        self._states, self._believed = states, believed
        chances = np.exp(believed)
        return Posterior(
            task=task,
            known=task is not None if calibrated else None,
            probabilities=chances[: len(tasks)],
            unknown=float(chances[-1]) if calibrated else 0.0,
            prediction=prediction,
        )

    def _how(self, loaded: Loaded) -> tuple[Inference, Score]:
        how = loaded.how(self._method)
        score = resolved_score(loaded.info, how)
        if score is None:
            raise InputError(
                f"{loaded.place}: a tracker needs method {' or '.join(JUDGING)}, which run the "
                f"network with single masks, got {how.method}; give one, or export with all outputs"
            )
        if how.candidates == 1 and len(loaded.info.tasks) > 1:
            raise InputError(
                f"{loaded.place}: a tracker compares tasks, so verified must try at least 2 "
                "candidates, got 1; give a method with more"
            )
        return how, score


def log_likelihoods(scores: Scores, score: Score | None) -> Scores:
    """Return how likely a frame is in each task, as logarithms up to a shared constant.

    Log-odds are that already: ``log(p(frame | task) / p(frame | not the task))``, as the
    superfluous outputs learned it; the scale that fits SplitMNIST best is 1.01. So count energies.
    A probability `p`
    counts by the odds of its answer, ``p / (1 - p)``, and an entropy `H` by ``1 / H``, so what
    matters is by which factor doubt differs between tasks, not the doubt that a network usually
    has. Doubt below `_LEAST_DOUBT` hardly counts.

    Args:
        scores: ``float64 (frames, tasks)``; ``-inf`` for tasks not tried, which count as the worst
            that was.
        score: What they are; None if adjusted, which the calibration fitted as log-likelihoods.
    """
    tried = np.isfinite(scores)
    worst = np.where(tried, scores, np.inf).min(axis=1, keepdims=True)
    found = np.where(tried, scores, worst)
    if score == "entropy":  # a threshold may be out of range
        found = -np.log(_LEAST_DOUBT - np.minimum(found, 0))
    elif score == "max-probability":
        found = np.clip(found, np.finfo(np.float64).tiny, 1)
        found = np.log(found) - np.log(1 + _LEAST_DOUBT - found)
    return found


def filtered(believed: Scores, evidence: Scores, switch: float) -> Scores:
    """Take a frame: one step of the forward algorithm, in logarithms, so nothing underflows.

    Args:
        believed: Logarithms of the probabilities before, ``float64 (states,)``; at the first frame
            all are equal, which a switch does not change.
        evidence: Log-likelihoods of the frame, ``float64 (states,)``, finite.
        switch: Probability in ``[0, 1]`` that the state is another than before.

    Returns:
        Logarithms of the probabilities after it.
    """
    found = _expected(believed, switch) + evidence
    return np.asarray(found - np.logaddexp.reduce(found))


def _expected(believed: Scores, switch: float) -> Scores:
    if len(believed) == 1:
        return believed
    stay = math.log1p(-switch) if switch < 1 else -math.inf
    move = math.log(switch) - math.log(len(believed) - 1) if switch else -math.inf
    # of all others: those before and those after; 1 - p would lose the small ones
    before = np.logaddexp.accumulate(believed)[:-1]
    after = np.logaddexp.accumulate(believed[::-1])[-2::-1]
    others = np.logaddexp([-np.inf, *before], [*after, -np.inf])
    return np.asarray(np.logaddexp(stay + believed, move + others))
