"""The command supsup-train: a stream of tasks into a mask bank, one task after the other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.console import run_command
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream, make_stream
from supsup_runtime.errors import InputError
from supsup_train.cli import options
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.rules import Rule
from supsup_train.masks.train_task import train_task
from supsup_train.masks.transfer import Transfer
from supsup_train.networks.create_bank import check_module, create_bank, fixed_copy
from supsup_train.networks.models import load_module, make_model, wants_images
from supsup_train.nns.learner import NnsLearner, NnsSettings
from supsup_train.nns.stream import learn_stream
from supsup_train.reporting import Reporter, reporting
from supsup_train.resume import Record, check_resumed, fingerprint

__all__ = ["app", "main"]

SCENARIOS = ("GG", "GNs", "GNu", "NNs")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_EPILOG = "A task that the bank has already is kept: run the same command again to resume."


@app.command(epilog=_EPILOG)
def train(
    stream: options.Stream,
    bank: options.Bank,
    data: options.Data = None,
    tasks: options.Tasks = 10,
    labels: options.Labels = "own",
    model: Annotated[
        str,
        typer.Option(help="lenet-300-100, fc-1024-1024, mlp-WIDTH-..., bnnet-WIDTH-... or cnn."),
    ] = "lenet-300-100",
    module: Annotated[
        str | None, typer.Option(help="Your own network: FILE.py:FUNCTION(input_shape, outputs).")
    ] = None,
    images: Annotated[
        bool, typer.Option(help="With --module: inputs are (channels, height, width), not flat.")
    ] = False,
    outputs: Annotated[int, typer.Option(help="Real and superfluous outputs.", min=1)] = 100,
    steps: Annotated[int, typer.Option(help="Batches a task.", min=1)] = 1000,
    batch_size: Annotated[int, typer.Option(help="Inputs a batch.", min=1)] = 128,
    optimizer: Annotated[str, typer.Option(help="rmsprop, adam or sgd.")] = "rmsprop",
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-4,
    schedule: Annotated[
        str, typer.Option(help="Of the learning rate: constant, or cosine, down to 0.")
    ] = "constant",
    weight_decay: Annotated[
        float, typer.Option(help="Added to a gradient: this times the value.")
    ] = 0.0,
    score_init: Annotated[
        str, typer.Option(help="Fresh scores: uniform, or zeros, a mask of ones (threshold).")
    ] = "uniform",
    rule: Annotated[str, typer.Option(help="threshold or top-k.")] = "threshold",
    density: Annotated[
        float | None, typer.Option(help="top-k: fraction of weights kept; 0.5 if missing.")
    ] = None,
    er: Annotated[
        float | None,
        typer.Option(help="top-k: multiplier of the ER budget; no --density then."),
    ] = None,
    transfer: Annotated[
        str, typer.Option(help="Begin with the mean of earlier tasks' masks or scores; or none.")
    ] = "none",
    seed: Annotated[int, typer.Option(help="Of the stream, the scores and the batches.")] = 0,
    weight_seed: Annotated[int, typer.Option(help="Of the fixed random weights.", min=0)] = 0,
    threads: options.Threads = None,
    scenario: Annotated[
        str,
        typer.Option(
            help="GG, GNs, GNu: tasks are told apart in training, and trained alike. NNs: they "
            "are not; a mask is allocated where the learner is uncertain."
        ),
    ] = "GNu",
    threshold: Annotated[
        float | None, typer.Option(help="NNs: certainty below which a task is new; 1.125.")
    ] = None,
    period: Annotated[
        int | None, typer.Option(help="NNs: batches between inferences; 100.", min=1)
    ] = None,
    max_tasks: Annotated[
        int | None, typer.Option(help="NNs: masks to allocate at most; 2500.", min=1)
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="NNs: entropy (the default) or superfluous.")
    ] = None,
    log: options.Log = None,
    quiet: options.Quiet = False,
) -> None:
    """Learn one mask a task, and write each finished task to the bank.

    supsup-train permuted --bank masks/

    supsup-train permuted --data mnist/ --outputs 100 --tasks 10 --bank masks/

    supsup-train split --data mine.npz --module net.py:make --tasks 5 --bank masks/
    """
    options.use_threads(threads)
    recipe = Recipe(
        rule=_rule(rule, density, er),
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,  # type: ignore[arg-type]  # Recipe checks it
        learning_rate=lr,
        schedule=schedule,  # type: ignore[arg-type]  # as above
        weight_decay=weight_decay,
        score_init=score_init,  # type: ignore[arg-type]  # as above
        seed=seed,
        transfer=transfer,  # type: ignore[arg-type]  # as above
    )
    if images and not module:
        raise InputError("--images: goes with --module; the named models know what they take")
    as_images = images if module else wants_images(model)
    dataset = load_dataset(data)
    source = make_stream(
        stream,
        dataset,
        num_tasks=tasks,
        seed=seed,
        layout="image" if as_images else "flat",
        labels=labels,
    )
    network = _network(module, model, source, outputs, weight_seed)
    settings = _nns_settings(
        scenario,
        transfer,
        {"threshold": threshold, "period": period, "max_tasks": max_tasks, "objective": objective},
    )
    opened = _open_bank(bank, network, source, weight_seed)
    origin = {"data": fingerprint(dataset), "stream": source.kind}
    if settings is not None:
        learner = NnsLearner(opened, network, recipe=recipe, settings=settings, origin=origin)
        learn_stream(learner, source, recipe, log or bank / "train.jsonl", quiet=quiet)
        return
    check_resumed(opened, source.task_names, recipe, origin)
    with reporting(bank, log, recipe.steps, quiet=quiet) as reporter:
        _train_stream(opened, network, source, Record(recipe=recipe, origin=origin), reporter)


def _network(
    module: str | None, model: str, stream: Stream, outputs: int, weight_seed: int
) -> nn.Module:
    shape = stream.input_shape
    if module is not None:
        return load_module(module, input_shape=shape, outputs=outputs)
    return make_model(model, input_shape=shape, outputs=outputs, weight_seed=weight_seed)


def _rule(kind: str, density: float | None, er: float | None) -> Rule:
    if kind != "top-k" and (density is not None or er is not None):
        raise InputError(f"--density, --er: go with --rule top-k, got --rule {kind}")
    if density is not None and er is not None:
        raise InputError("--density, --er: give one of them; --er sets the density by layer")
    if er is not None:
        return Rule(kind="top-k", density=er, budget="er")
    return Rule(kind=kind, density=0.5 if density is None else density)  # type: ignore[arg-type]  # Rule checks it


def _nns_settings(scenario: str, transfer: str, given: dict[str, Any]) -> NnsSettings | None:
    """Settings of scenario NNs; None for the others, which have none."""
    if scenario not in SCENARIOS:
        raise InputError(f"--scenario: must be one of {list(SCENARIOS)}, got {scenario!r}")
    chosen = {name: value for name, value in given.items() if value is not None}
    if scenario == "NNs":
        if transfer != "none":
            raise InputError(f"--transfer: goes with GG, GNs and GNu, got {transfer} with NNs")
        return NnsSettings(**chosen)
    if chosen:
        name = next(iter(chosen)).replace("_", "-")
        raise InputError(f"--{name}: goes with --scenario NNs, got --scenario {scenario}")
    return None


def _open_bank(path: Path, module: nn.Module, stream: Stream, weight_seed: int) -> MaskBank:
    if not (path / "bank.json").exists():
        return create_bank(
            path,
            module,
            input_shape=stream.input_shape,
            real_outputs=stream.real_outputs,
            weight_seed=weight_seed,
        )
    opened = MaskBank.open(path)
    for name, wanted in (
        ("input_shape", stream.input_shape),
        ("real_outputs", stream.real_outputs),
        ("weight_seed", weight_seed),
    ):
        got = getattr(opened.network, name)
        if got != wanted:
            raise InputError(
                f"{path}: the bank was made with {name} {got}, this run wants {wanted}; "
                "give the same options, or another --bank"
            )
    check_module(fixed_copy(module), opened.network)
    return opened


def _train_stream(
    bank: MaskBank, module: nn.Module, stream: Stream, record: Record, reporter: Reporter
) -> None:
    transfer = Transfer(bank, record.recipe)
    for index, name in enumerate(stream.task_names):
        if name in bank:
            reporter.report({"kept": True, "task": name})
            continue
        start = time.perf_counter()
        task = train_task(
            bank,
            module,
            stream.task(index),
            recipe=record.recipe,
            record={**record.origin, "stream_index": index},
            progress=reporter.bar(name),
            transfer=transfer,
        )
        seconds = round(time.perf_counter() - start, 2)
        bank.add(task)
        transfer.tidy()
        line = {"accuracy": task.training["accuracy"], "index": bank.index(name), "task": name}
        density = round(task.density(bank.network), 4)
        reporter.report({**line, "density": density, "seconds": seconds})


def main() -> None:
    """Run the command."""
    run_command("supsup-train", app)
