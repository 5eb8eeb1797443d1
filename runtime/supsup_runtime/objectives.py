"""Objectives and scores in numpy: the reference for the graphs.

The paper's objectives are H, the entropy, and G, the log-sum-exp of the superfluous outputs
(Wortsman et al. 2020). Log-odds score a mask by a real forward pass.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from supsup_runtime.arrays import Reals

Score = Literal["log-odds", "entropy", "max-probability"]
"""How a real forward pass through a mask is scored."""


def entropy(logits: Reals) -> Reals:
    """Return H, the Shannon entropy of the softmax over all outputs.

    Args:
        logits: ``float (batch, outputs)``.

    Returns:
        ``float (batch,)`` in nats, within ``[0, log(outputs)]``.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)  # (batch, outputs)
    mass = np.exp(shifted)
    total = mass.sum(axis=1)  # (batch,)
    # log sum exp(z) - E[z]: exact where an output has no mass and p log p would be nan
    result: Reals = np.log(total) - (mass * shifted).sum(axis=1) / total
    return result


def superfluous(logits: Reals) -> Reals:
    """Return G, the log-sum-exp of all outputs, whose gradient uses the superfluous ones alone.

    Args:
        logits: ``float (batch, outputs)``.

    Returns:
        ``float (batch,)``.
    """
    return _log_sum_exp(logits)


def log_odds(logits: Reals, real_outputs: int) -> Reals:
    """Return the log-odds of the real outputs against the superfluous ones.

    Args:
        logits: ``float (batch, outputs)``.
        real_outputs: Leading outputs that are labels, in ``[1, outputs)``.

    Returns:
        ``float (batch,)``; higher is likelier.
    """
    return _log_sum_exp(logits[:, :real_outputs]) - _log_sum_exp(logits[:, real_outputs:])


def max_probability(logits: Reals) -> Reals:
    """Return the largest softmax probability over all outputs (ABatchE's second rule).

    Args:
        logits: ``float (batch, outputs)``.

    Returns:
        ``float (batch,)`` within ``[1 / outputs, 1]``.
    """
    result: Reals = np.exp(logits.max(axis=1) - _log_sum_exp(logits))
    return result


def default_score(outputs: int, real_outputs: int) -> Score:
    """Return ``log-odds`` if there are superfluous outputs, else ``entropy``."""
    return "log-odds" if outputs > real_outputs else "entropy"


def evidence(logits: Reals, real_outputs: int, score: Score | None = None) -> Reals:
    """Return how well a mask fits each input.

    Args:
        logits: ``float (batch, outputs)``.
        real_outputs: Leading outputs that are labels.
        score: Defaults to `default_score`; log-odds need superfluous outputs.

    Returns:
        ``float (batch,)``; higher is likelier, so the entropy is negated.
    """
    score = score or default_score(logits.shape[1], real_outputs)
    if score == "max-probability":
        return max_probability(logits)
    if score == "entropy":
        return -entropy(logits)
    return log_odds(logits, real_outputs)


def _log_sum_exp(values: Reals) -> Reals:
    peak = values.max(axis=1, keepdims=True)
    result: Reals = np.log(np.exp(values - peak).sum(axis=1)) + peak[:, 0]
    return result
