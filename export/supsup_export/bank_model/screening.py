"""Choose the weights that screening scores first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from supsup_export.bank_model.layout import ROW_BITS, Layout
from supsup_export.checking import open_program
from supsup_runtime.arrays import Array, Floats, Images, Scores
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.layout import cut
from supsup_runtime.errors import InputError

SHARE = 0.3
"""Share of the weights that the first pass scores."""
MIN_TASKS = 64
"""Fewer do not repay four contenders; from some 500 on it saves time (docs/PERFORMANCE.md)."""
_SAMPLE = 64


def choose_screen(bank: MaskBank, layout: Layout, objective: str, sample: Images | None) -> Layout:
    """Return the layout with the `screen` that tells tasks apart best on `sample`.

    `sample` is ``float32 (images, *input_shape)``, of which at most 64 are used, spread evenly;
    None takes standard normal images.

    Raises:
        InputError: If tasks or weights are too few, or the sample does not fit.
    """
    if len(bank) < MIN_TASKS:
        raise InputError(
            f"scoring screened: needs at least {MIN_TASKS} tasks to save time, {bank.path} has "
            f"{len(bank)}; leave it out"
        )
    if len(layout.parts[0]) < 2:
        raise InputError(
            f"scoring screened: needs a network of more than {ROW_BITS} masked weights, "
            f"{bank.path} has {bank.network.num_masked}; leave it out"
        )
    images = _checked(bank, sample)
    share = layout.counts.astype(np.float32) / np.float32(len(bank))
    energy = np.zeros(8 * layout.signs.size)  # variance of terms, mean over the sample
    state = layout.state.sum(axis=0, dtype=np.float64) / len(bank)
    parts = cut(bank.network.state, state.astype(np.float32))
    square = _mean_square(bank, share, parts, objective, images)
    energy[: share.size] = square * share * (1 - share)
    by_block = energy.reshape(-1, ROW_BITS).sum(axis=1)
    count = max(1, round(SHARE * len(by_block)))
    best = np.argsort(-by_block, kind="stable")[:count]
    return replace(layout, screen=np.sort(best).astype(np.int64))


def _checked(bank: MaskBank, sample: Images | None) -> Images:
    shape = bank.network.input_shape
    if sample is None:
        rng = np.random.default_rng(0)
        return rng.standard_normal((_SAMPLE, *shape)).astype(np.float32)
    if sample.dtype != np.float32 or sample.shape[1:] != shape or len(sample) == 0:
        raise InputError(
            f"sample: must be float32 (images, {', '.join(map(str, shape))}) with at least one "
            f"image, got {sample.dtype} {sample.shape}"
        )
    if not np.isfinite(sample).all():
        raise InputError("sample: must be finite, got NaN or infinity")
    chosen = np.linspace(0, len(sample) - 1, min(len(sample), _SAMPLE)).astype(np.int64)
    return sample[chosen]


def _mean_square(
    bank: MaskBank, share: Floats, state: dict[str, Array], objective: str, images: Images
) -> Scores:
    """Return the mean ``(W * dO/dW) ** 2``: ``float64 (num_masked,)``."""
    network = bank.network
    session = open_program(bank, "gradient")
    weights = network.weights()
    parts = cut(network.parameters, share)
    feeds = {name: w * part for w, (name, part) in zip(weights, parts.items(), strict=True)}
    names = [f"{objective}.{p.name}" for p in network.parameters]
    square = np.zeros(network.num_masked)
    for image in images:
        gradients = session.run(names, {"x": image[None], **feeds, **state})
        terms = [(g * w).reshape(-1) for g, w in zip(gradients, weights, strict=True)]
        square += np.square(np.concatenate(terms, dtype=np.float64))
    return square / len(images)
