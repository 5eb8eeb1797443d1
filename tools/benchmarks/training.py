"""`train_task`, compared with a plain loop of the same steps."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tools.benchmarks.timing import Candidate, Result, Setup, measure
from torch.nn.functional import cross_entropy, linear

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.streams import TaskData

BATCH, IMAGES = 128, 60_000  # the paper's protocol


def training(setup: Setup, *, steps: int) -> Result:
    """Time a task of the size of PermutedMNIST on LeNet 300-100 with 100 outputs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((IMAGES, 784)).astype(np.float32)
    y = rng.integers(0, 10, len(x))
    data = TaskData(name="t", labels=(), train_x=x, train_y=y, test_x=x[:0], test_y=y[:0])
    torch.manual_seed(0)
    module = st.make_model("lenet-300-100", input_shape=(784,), outputs=100)
    recipe = st.Recipe(steps=steps, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        bank = st.create_bank(Path(folder) / "masks", module, input_shape=(784,), real_outputs=10)
        candidates = [
            Candidate(
                name="plain loop",
                call=lambda: _plain_loop(bank, torch.from_numpy(x), torch.from_numpy(y), steps),
            ),
            Candidate(
                name="supsup train_task",
                call=lambda: st.train_task(bank, module, data, recipe=recipe),
            ),
        ]
        rows = measure(candidates, replace(setup, visit_seconds=0))
    settings = {"model": "lenet-300-100", "outputs": 100, "batch": BATCH}
    return Result(rows=rows, ratio="to the median of the plain loop", settings=settings)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - torch's signature
        return (scores >= 0).float()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - as above
        return gradient


def _plain_loop(bank: MaskBank, x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
    """Train without supsup: three masked layers, RMSprop."""
    weights = [torch.from_numpy(w) for w in bank.network.weights()]
    scores = [torch.empty_like(w).uniform_(-0.05, 0.05).requires_grad_() for w in weights]
    optimizer = torch.optim.RMSprop(scores, lr=1e-4)
    epoch = len(x) // BATCH
    for step in range(steps):
        if step % epoch == 0:
            order = torch.randperm(len(x))
        start = step % epoch * BATCH
        rows = order[start : start + BATCH]
        hidden = x[rows]
        for i, (weight, score) in enumerate(zip(weights, scores, strict=True)):
            masked = weight * _Straight.apply(score)  # type: ignore[no-untyped-call]  # torch
            hidden = linear(hidden, masked)
            if i < 2:
                hidden = torch.relu(hidden)
        loss = cross_entropy(hidden, y[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()
