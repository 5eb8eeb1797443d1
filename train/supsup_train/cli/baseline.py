"""The command supsup-baseline: a stream of tasks through a method that masks are compared with."""

from __future__ import annotations

from typing import Annotated

import typer
from torch import Tensor

from supsup_runtime.console import run_command
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.errors import InputError
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.baselines.run import Run, make_baseline, train_stream
from supsup_train.cli import options
from supsup_train.networks.models import Mlp, make_model
from supsup_train.reporting import reporting
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
    stream: options.Stream,
    bank: options.Bank,
    data: options.Data = None,
    tasks: options.Tasks = 10,
    labels: options.Labels = "own",
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
    threads: options.Threads = None,
    log: options.Log = None,
    quiet: options.Quiet = False,
) -> None:
    """Learn a stream of tasks by another method than masks, into a bank of the same format.

    supsup-baseline batche permuted --bank batche/

    supsup-baseline psp permuted --data mnist/ --tasks 10 --bank psp/
    """
    options.use_threads(threads)
    recipe = BaselineRecipe.of(method).with_options(  # type: ignore[arg-type]  # it checks it
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=lr,
        first_learning_rate=first_lr,
        seed=seed,
    )
    dataset = load_dataset(data)
    source = make_stream(stream, dataset, num_tasks=tasks, seed=seed, labels=labels)
    sizes = _sizes(model, source.input_shape, outputs or source.real_outputs, source.real_outputs)
    baseline = make_baseline(recipe, sizes, matrices=matrices)
    if every is not None and not baseline.in_sequence:
        raise InputError(f"--every: goes with psp and sequence, got {method}; leave it out")
    origin = {"data": fingerprint(dataset), "stream": source.kind}
    with reporting(bank, log, recipe.steps, quiet=quiet) as reporter:
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


def main() -> None:
    """Run the command."""
    run_command("supsup-baseline", app)
