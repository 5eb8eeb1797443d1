"""Objectives and scores in numpy: the reference for the graphs.

H is the entropy (Wortsman et al. 2020). All functions map logits ``float (batch, outputs)`` to
``float (batch,)``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from supsup_runtime.arrays import Reals

Score = Literal["log-odds", "entropy", "max-probability", "energy"]
"""Scores of a real forward pass through a mask."""


def entropy(logits: Reals) -> Reals:
    """Return H, the Shannon entropy of the softmax in nats, in ``[0, log(outputs)]``."""
    shifted = logits - logits.max(axis=1, keepdims=True)  # (batch, outputs)
    mass = np.exp(shifted)
    total = mass.sum(axis=1)  # (batch,)
    # log sum exp(z) - E[z], because p log p is nan at p = 0
    result: Reals = np.log(total) - (mass * shifted).sum(axis=1) / total
    return result


def log_odds(logits: Reals, real_outputs: int) -> Reals:
    """Return the log-odds of the first `real_outputs` outputs against the rest, at least one."""
    return _log_sum_exp(logits[:, :real_outputs]) - _log_sum_exp(logits[:, real_outputs:])


def max_probability(logits: Reals) -> Reals:
    """Return the largest softmax probability (ABatchE's second rule), in ``[1 / outputs, 1]``."""
    result: Reals = np.exp(logits.max(axis=1) - _log_sum_exp(logits))
    return result


def energy(logits: Reals, real_outputs: int) -> Reals:
    """Return the log-sum-exp of the first `real_outputs` outputs: minus the free energy."""
    return _log_sum_exp(logits[:, :real_outputs])


def default_score(outputs: int, real_outputs: int) -> Score:
    """Return ``log-odds`` if there are superfluous outputs, else ``entropy``."""
    return "log-odds" if outputs > real_outputs else "entropy"


def evidence(logits: Reals, real_outputs: int, score: Score) -> Reals:
    """Return how well a mask fits each input; higher is likelier, so entropy is negated.

    `real_outputs` are the task's own; log-odds require others.
    """
    if score == "max-probability":
        return max_probability(logits)
    if score == "entropy":
        return -entropy(logits)
    if score == "energy":
        return energy(logits, real_outputs)
    return log_odds(logits, real_outputs)


def _log_sum_exp(values: Reals) -> Reals:
    peak = values.max(axis=1, keepdims=True)
    result: Reals = np.log(np.exp(values - peak).sum(axis=1)) + peak[:, 0]
    return result
