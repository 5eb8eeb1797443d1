"""Masks over trained weights against seeded ones: `python tools/base.py --data DATA`.

A network learns classes 0 to 5 of CIFAR-10; a new task are the others. Prints the test accuracy,
its mean over seeds, and what a task adds in bytes, of each way to learn it in equal steps.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import supsup_train as st
from supsup_runtime.console import positive, print_result, run_command, to_path, to_table
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import TaskData, make_stream

CLASSES, NEW = 10, 4
WIDTHS = (32, 64, 64, 128)
BATCH = 96


class Net(nn.Module):
    """Four convolutions, each normalised, with ReLU, and a linear layer over the means."""

    def __init__(self, outputs: int = CLASSES, *, affine: bool = True) -> None:
        super().__init__()
        self.convolutions, self.norms, channels = nn.ModuleList(), nn.ModuleList(), 3
        for width in WIDTHS:
            stride = 1 if channels == 3 else 2
            self.convolutions.append(
                nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
            )
            self.norms.append(nn.BatchNorm2d(width, affine=affine))
            channels = width
        self.head = nn.Linear(channels, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, 3, height, width)`` to ``float32 (batch, outputs)``."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def main() -> None:
    """Run the command."""
    run_command("base", _run)


def _run() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    text = "CIFAR-10 as --data of supsup-train takes it"
    made.add_argument("--data", type=to_path, required=True, help=text)
    made.add_argument("--seeds", type=positive, default=3)
    made.add_argument("--steps", type=positive, nargs="+", default=[100, 300])
    made.add_argument("--base-steps", type=positive, default=1200)
    made.add_argument("--json", action="store_true")
    arguments = made.parse_args()
    dataset = load_dataset(arguments.data)
    stream = make_stream("split", dataset, num_tasks=CLASSES // 2, layout="image")
    pairs = [stream.task(index) for index in range(CLASSES // 2)]
    first, new = joined(pairs[:3]), joined(pairs[3:])
    found: dict[str, list[tuple[float, int]]] = {}
    for seed in range(arguments.seeds):
        torch.manual_seed(seed)
        base = Net(CLASSES - NEW)
        fit(base, [*base.parameters()], first, arguments.base_steps, 3e-3, seed)
        for steps in arguments.steps:
            for name, result in ways(base, new, steps, seed).items():
                found.setdefault(f"{steps} steps: {name}", []).append(result)
                sys.stderr.write(f"seed {seed}, {steps} steps: {name}: {result[0]:.4f}\n")
    rows = [
        {"way": name, "accuracy": fmean(a for a, _ in each), "bytes": each[0][1]}
        for name, each in found.items()
    ]
    lines = [(row["way"], f"{row['accuracy']:.4f}", f"{row['bytes']:,}") for row in rows]
    text = to_table(("way", "accuracy", "bytes of a task"), lines)
    print_result(rows, as_json=arguments.json, text=text)


def joined(tasks: list[TaskData]) -> TaskData:
    """Return one task of the classes of several."""
    labels = [label for task in tasks for label in task.labels]
    parts: dict[str, Any] = {}
    for part in ("train", "test"):
        x = [torch.from_numpy(getattr(task, f"{part}_x")) for task in tasks]
        y = [
            torch.from_numpy(getattr(task, f"{part}_y")) + 2 * place
            for place, task in enumerate(tasks)
        ]
        parts |= {f"{part}_x": torch.cat(x).numpy(), f"{part}_y": torch.cat(y).numpy()}
    return TaskData(name="new", labels=tuple(labels), **parts)


def ways(base: Net, task: TaskData, steps: int, seed: int) -> dict[str, tuple[float, int]]:
    """Return accuracy and bytes by way to learn a task."""
    found = {}
    for name in ("fine-tuned network", "linear head"):
        net = copy.deepcopy(base)
        net.head = nn.Linear(WIDTHS[-1], NEW, bias=False)
        whole = name.startswith("fine")
        learned = [*(net if whole else net.head).parameters()]
        fit(net, learned, task, steps, 1e-3 if whole else 1e-2, seed)
        tensors = [*net.parameters(), *net.buffers()] if whole else learned
        found[name] = accuracy(net, task), 4 * sum(each.numel() for each in tensors)
    recipe = st.Recipe(
        steps=steps,
        batch_size=BATCH,
        optimizer="adam",
        learning_rate=1e-2,
        schedule="cosine",
        augment="flip",
        seed=seed,
    )
    over = Net()
    for mine, its in ((over.convolutions, base.convolutions), (over.norms, base.norms)):
        mine.load_state_dict(its.state_dict())
    found["masks over seeded weights"] = masked(Net(affine=False), "seeded", task, recipe)
    found["masks over the base"] = masked(over, "module", task, recipe)
    return found


def masked(module: nn.Module, weights: str, task: TaskData, recipe: st.Recipe) -> tuple[float, int]:
    """Return accuracy and bytes of a task's file."""
    with TemporaryDirectory() as folder:
        bank = st.create_bank(
            folder,
            module,
            input_shape=task.test_x.shape[1:],
            real_outputs=NEW,
            weights=weights,  # type: ignore[arg-type]
            require_gradient=False,
        )
        learned = st.train_task(bank, module, task, recipe=recipe)
        bank.add(learned)
        size = (Path(folder) / bank.entries[0].file).stat().st_size
    return float(learned.training["accuracy"]), size


def fit(
    net: Net, learned: list[nn.Parameter], task: TaskData, steps: int, rate: float, seed: int
) -> None:
    """Train parameters by Adam and a cosine, with mirrored pictures."""
    optimizer = torch.optim.Adam(learned, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(task.train_x), torch.from_numpy(task.train_y)
    net.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        turned = torch.rand(BATCH, 1, 1, 1, generator=generator) < 0.5
        loss = cross_entropy(net(torch.where(turned, x[rows].flip(3), x[rows])), y[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    net.eval()


@torch.no_grad()
def accuracy(net: Net, task: TaskData) -> float:
    """Return the fraction of test images right."""
    labels = net(torch.from_numpy(task.test_x)).argmax(1)
    return float((labels == torch.from_numpy(task.test_y)).float().mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
