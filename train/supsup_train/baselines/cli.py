"""The command supsup-baseline: a stream of tasks through a method that masks are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from supsup_runtime.cli.common import run_command
from supsup_runtime.errors import InputError
from supsup_runtime.sources import load_dataset
from supsup_runtime.streams import make_stream
from supsup_train.baselines.method import Progress as StepProgress
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.baselines.run import Run, make_baseline, train_stream
from supsup_train.models import Mlp, make_model
from supsup_train.resume import fingerprint

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_EPILOG = (
    "Run the same command again to resume; psp and sequence cannot, as every task changes the "
    "weights of all."
)


@app.command(epilog=_EPILOG)
def train(
    method: Annotated[
        str,
        typer.Argument(help="batche, batche-random, psp, heads, heads-random, dense or sequence."),
    ],
    stream: Annotated[str, typer.Argument(help="permuted, rotated, split or mixed.")],
    bank: Annotated[Path, typer.Option(help="Folder of the bank; made if missing.")],
    data: Annotated[
        str | None, typer.Option(help="Folder of IDX files, or an .npz; the digits if missing.")
    ] = None,
    tasks: Annotated[int, typer.Option(help="Number of tasks.", min=1)] = 10,
    model: Annotated[
        str, typer.Option(help="lenet-300-100, fc-1024-1024 or mlp-WIDTH-....")
    ] = "lenet-300-100",
    outputs: Annotated[
        int | None, typer.Option(help="Real and superfluous outputs; real ones if missing.", min=1)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Batches a task; 1000.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Inputs a batch; 128.", min=1)] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="rmsprop, adam or sgd; the method's own if missing.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; the method's own if missing.")
    ] = None,
    first_lr: Annotated[
        float | None,
        typer.Option(help="Of the first task; if missing the method's own, or --lr if it has one."),
    ] = None,
    matrices: Annotated[
        bool,
        typer.Option("--matrices", help="BatchE: write rank-one matrices, for one-shot inference."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the stream and of all that is random.")] = 0,
    every: Annotated[
        int | None,
        typer.Option(help="psp, sequence: evaluate all tasks so far after so many; 1.", min=1),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of PyTorch; small networks want 1.", min=1)
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="One JSON line a task; BANK/train.jsonl if missing.")
    ] = None,
    quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False,
) -> None:
    """Learn a stream of tasks by another method than masks, into a bank of the same format.

    supsup-baseline batche permuted --bank batche/

    supsup-baseline psp permuted --data mnist/ --tasks 10 --bank psp/
    """
    if threads is not None:
        torch.set_num_threads(threads)
    recipe = BaselineRecipe.of(method).with_options(  # type: ignore[arg-type]  # it checks it
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=lr,
        first_learning_rate=first_lr,
        seed=seed,
    )
    dataset = load_dataset(data)
    source = make_stream(stream, dataset, num_tasks=tasks, seed=seed)
    sizes = _sizes(model, source.input_shape, outputs or source.real_outputs, source.real_outputs)
    baseline = make_baseline(recipe, sizes, matrices=matrices)
    if every is not None and not baseline.in_sequence:
        raise InputError(f"--every: goes with psp and sequence, got {method}; leave it out")
    origin = {"data": fingerprint(dataset), "stream": source.kind}
    with _reporter(bank, log, recipe.steps, quiet=quiet) as reporter:
        run = Run(
            path=bank,
            origin=origin,
            report=reporter.report,
            progress=reporter.bar,
            every=every or 1,
        )
        train_stream(baseline, source, run)


def _sizes(model: str, input_shape: tuple[int, ...], outputs: int, real_outputs: int) -> list[int]:
    """Sizes of the layers, the input's first."""
    network = make_model(model, input_shape=input_shape, outputs=outputs)
    if not isinstance(network, Mlp):
        raise InputError(
            f"--model: baselines have fully connected layers, got {model}; take lenet-300-100, "
            "fc-1024-1024 or mlp-WIDTH-WIDTH..."
        )
    if outputs < real_outputs:
        raise InputError(
            f"--outputs: must be at least {real_outputs}, the classes of a task, got {outputs}"
        )
    weights: list[Tensor] = [layer.get_parameter("weight") for layer in network.layers]
    return [weights[0].shape[1], *(weight.shape[0] for weight in weights)]


class _Reporter:
    """A progress bar a task, a line on stderr, and a JSON line in the log.

    The log within the bank's folder can only be begun once the bank is there.
    """

    def __init__(
        self, bars: Progress, console: Console, bank: Path, log: Path | None, steps: int
    ) -> None:
        self._bars = bars
        self._steps = steps
        self._console = console
        self._bank = bank
        self._log = log
        self._waiting: list[str] = []

    def bar(self, name: str) -> StepProgress:
        """The bar of one task, in place of the one before it."""
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        task = self._bars.add_task(name, total=self._steps, loss="")

        def show(step: int, loss: float) -> None:
            if step % 10 == 0 or step == self._steps:
                self._bars.update(task, completed=step, loss=f"loss {loss:.3f}")

        return show

    def report(self, line: dict[str, Any]) -> None:
        """A task was learned, or kept."""
        if line.get("kept"):
            self._console.print(f"{line['task']}: in the bank already, kept", highlight=False)
            return
        text = f"{line['task']}: accuracy {line['accuracy']:.4f}, {line['seconds']:.1f} s"
        if "seen" in line:
            text += f"; all tasks so far {line['seen']:.4f}"
        self._console.print(text, highlight=False)
        self._waiting.append(json.dumps(line, sort_keys=True) + "\n")
        self.flush()

    def flush(self) -> None:
        """Write what there is to write, if there is a place."""
        if self._log is None and not (self._bank / "bank.json").exists():
            return
        with (self._log or self._bank / "train.jsonl").open("a") as file:
            file.writelines(self._waiting)
        self._waiting.clear()


@contextmanager
def _reporter(bank: Path, log: Path | None, steps: int, *, quiet: bool) -> Iterator[_Reporter]:
    if log is not None and not log.parent.is_dir():
        raise InputError(f"--log: {log.parent} must be a folder, there is none; make it first")
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn("{task.fields[loss]}"), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bars:
        made = _Reporter(bars, console, bank, log, steps)
        yield made
        made.flush()


def main() -> None:
    """Run the command."""
    run_command("supsup-baseline", app)
