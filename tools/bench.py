"""Time supsup against the plain thing, side by side in one run: `python tools/bench.py training`.

Rounds alternate, medians are compared, and the result is one JSON line. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import supsup_train as st
from supsup_runtime.bank import MaskBank
from supsup_runtime.streams import TaskData

STEPS, BATCH, ROUNDS = 1000, 128, 5  # the paper's protocol


def main() -> None:
    """Run the benchmark named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("training",))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(json.dumps(training(), sort_keys=True))


def training() -> dict[str, object]:
    """Seconds of a task of PermutedMNIST's size: `train_task` against a plain loop of its steps."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60_000, 784)).astype(np.float32)
    y = rng.integers(0, 10, len(x))
    data = TaskData(name="t", labels=(), train_x=x, train_y=y, test_x=x[:0], test_y=y[:0])
    module = st.make_model("lenet-300-100", input_shape=(784,), outputs=100)
    with tempfile.TemporaryDirectory() as folder:
        bank = st.create_bank(Path(folder) / "masks", module, input_shape=(784,), real_outputs=10)
        ours: list[float] = []
        plain: list[float] = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            st.train_task(bank, module, data, recipe=st.Recipe(steps=STEPS, batch_size=BATCH))
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            _plain_loop(bank, torch.from_numpy(x), torch.from_numpy(y))
            plain.append(time.perf_counter() - start)
    return {
        "benchmark": "training",
        "steps": STEPS,
        "rounds": ROUNDS,
        "threads": torch.get_num_threads(),
        "supsup_s": round(median(ours), 3),
        "plain_s": round(median(plain), 3),
        "ratio": round(median(ours) / median(plain), 3),
        "ratios": [round(a / b, 3) for a, b in zip(ours, plain, strict=True)],
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - torch's signature
        return (scores >= 0).float()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - as above
        return gradient


def _plain_loop(bank: MaskBank, x: torch.Tensor, y: torch.Tensor) -> None:
    """What one would write without supsup: three masked layers, RMSprop."""
    weights = [torch.from_numpy(w) for w in bank.network.weights()]
    scores = [torch.empty_like(w).uniform_(-0.05, 0.05).requires_grad_() for w in weights]
    optimizer = torch.optim.RMSprop(scores, lr=1e-4)
    epoch = len(x) // BATCH
    for step in range(STEPS):
        if step % epoch == 0:
            order = torch.randperm(len(x))
        start = step % epoch * BATCH
        rows = order[start : start + BATCH]
        hidden = x[rows]
        for i, (weight, score) in enumerate(zip(weights, scores, strict=True)):
            masked = weight * _Straight.apply(score)  # type: ignore[no-untyped-call]  # torch
            hidden = torch.nn.functional.linear(hidden, masked)
            if i < 2:
                hidden = torch.relu(hidden)
        loss = cross_entropy(hidden, y[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()


if __name__ == "__main__":
    main()
