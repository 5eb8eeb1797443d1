"""Learn a bank, make it from shared masks, or check an existing one."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from tools.reproduction.data import DataFolder, Source

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.own import Tasks
from supsup_runtime.errors import InputError
from supsup_train.baselines import BaselineMethod, BaselineRecipe, make_baseline
from supsup_train.cli.baseline import run as baseline
from supsup_train.cli.options import DEFAULTS, take_defaults
from supsup_train.cli.options import stream_of as tasks_of
from supsup_train.cli.own import reserved_outputs
from supsup_train.cli.train import recipe_of, training_parser
from supsup_train.cli.train import run as train
from supsup_train.networks.create_bank import check_module, copy_for
from supsup_train.nns.learner import NnsSettings
from supsup_train.resume import check_resumed


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """A bank to learn, or to make from shared masks.

    Attributes:
        stream: As in the commands.
        source: ``mnist`` or ``cifar10``, in the data folder, the bundled ``digits``, or, for stream
            ``own``, ``pictures``: twelve tasks made of the first two.
        steps: Batches per task.
        lr: Learning rate; None is the method's default.
        scenario: ``NNs`` learns from one unlabelled stream.
        period: Batches between inferences, for ``NNs``; None is the default.
        shared: Folder in the data folder with learned masks to use.
        method: Baseline of `supsup-baseline` to train instead of masks.
        matrices: For BatchE, store tasks as rank-one matrices.
        options: Further options of the command, as ``(("batch-size", 64),)``.
    """

    stream: str
    tasks: int
    model: str
    outputs: int
    source: Source = "mnist"
    steps: int = 1000
    lr: float | None = 1e-4
    seed: int = 0
    scenario: Literal["GNu", "NNs"] = "GNu"
    period: int | None = None
    transfer: Literal["none", "masks", "scores"] = "none"
    shared: str | None = None
    method: BaselineMethod | None = None
    matrices: bool = False
    options: tuple[tuple[str, str | float], ...] = ()


def tiny_bank(bank: Bank) -> Bank:
    """Return a small bank that trains in seconds, on digits."""
    few = bank.stream in {"split", "own"}
    return replace(
        bank,
        stream="split" if few else bank.stream,
        tasks=2 if few else min(bank.tasks, 3),
        model="mlp-16",
        outputs=min(bank.outputs, 30),
        source="digits",
        steps=10,
        lr=None if bank.method else 1e-2,
        period=5 if bank.scenario == "NNs" else None,
        shared=None,
        options=tuple(option for option in bank.options if option[0] == "negatives"),
    )


def stream_of(wanted: Bank, data: DataFolder) -> Tasks:
    """Return the tasks of a bank, as the commands make them of their options."""
    return tasks_of(_arguments(replace(wanted, method=None, matrices=False), data), None)


def learned_bank(
    wanted: Bank,
    path: Path,
    data: DataFolder,
    *,
    own: Path | None = None,
    threads: int | None = None,
    workers: str | None = None,
) -> MaskBank:
    """Learn a bank, or resume it, and check it.

    Args:
        wanted: The bank.
        path: Its folder.
        data: Data and shared masks.
        own: Existing bank to use instead of `path`; it is never changed.
        threads: Threads of PyTorch; None is its default.
        workers: Processes that learn tasks side by side, where tasks do not depend on each other.

    Raises:
        InputError: If an existing bank does not match; the message names the difference.
    """
    stream = stream_of(wanted, data)
    if own is not None:
        return _checked(wanted, MaskBank.open(own), stream)
    if wanted.shared is not None:
        _from_shared(wanted, path, data.find(wanted.shared) / "masks.npz")
    elif not (path / "bank.json").exists() or _missing(wanted, MaskBank.open(path), stream):
        arguments = _options(wanted, path, data)
        if threads is not None:
            arguments += ["--threads", str(threads)]
        if workers is not None and _independent(wanted):
            arguments += ["--workers", workers]
        (baseline if wanted.method else train)(arguments)
    return _checked(wanted, MaskBank.open(path), stream)


def _independent(wanted: Bank) -> bool:
    if wanted.scenario == "NNs" or wanted.method in {"psp", "sequence"}:
        return False
    recipe = _recipe(wanted)
    return not (isinstance(recipe, st.Recipe) and recipe.depends_on_earlier)


def _options(wanted: Bank, path: Path, data: DataFolder | None) -> list[str]:
    options: dict[str, object] = {
        "bank": path,
        "data": data and data.dataset(wanted.source),
        "tasks": None if wanted.stream == "own" else wanted.tasks,
        "model": wanted.model,
        "outputs": wanted.outputs,
        "steps": wanted.steps,
        "lr": wanted.lr,
        "seed": wanted.seed,
    }
    if wanted.method is None:
        options |= {"scenario": wanted.scenario, "period": wanted.period}
        options |= {"transfer": wanted.transfer}
    options |= dict(wanted.options)
    given = {name: value for name, value in options.items() if value is not None}
    words = [text for k, v in given.items() for text in (f"--{k}", str(v))]
    if wanted.method is None:
        return [wanted.stream, *words]
    return [wanted.method, wanted.stream, *words, *["--matrices"] * wanted.matrices]


def _arguments(wanted: Bank, data: DataFolder | None) -> Namespace:
    """Return the options of the training command, with defaults."""
    arguments = training_parser().parse_args(_options(wanted, Path("bank"), data))
    take_defaults(arguments, *DEFAULTS)
    return arguments


def _missing(wanted: Bank, bank: MaskBank, stream: Tasks) -> str:
    """Return what a bank lacks, in words; empty for nothing."""
    if wanted.scenario == "NNs":
        learned, total = _batches(bank.path / "nns" / "learner.json"), wanted.tasks * wanted.steps
        return "" if learned == total else f"it has learned from {learned} batches, not {total}"
    missing = [name for name in stream.task_names if name not in bank]
    return f"it has no task {missing[0]!r}" if missing else ""


def _batches(file: Path) -> int:
    try:
        return int(json.loads(file.read_text())["batches"]) if file.exists() else 0
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: must be a learner's JSON, got {error!r:.80}; restore it, or give another bank"
        ) from error


def _checked(wanted: Bank, bank: MaskBank, stream: Tasks) -> MaskBank:
    lacking = _missing(wanted, bank, stream)
    if lacking:
        raise InputError(f"{bank.path}: {lacking}; finish it with supsup-train, or give another")
    if wanted.scenario != "NNs" and len(bank) != wanted.tasks:
        raise InputError(
            f"{bank.path}: the bank must have the {wanted.tasks} tasks of the stream alone, got "
            f"{len(bank)}; give --tasks {len(bank)}, or another bank"
        )
    recipe = _recipe(wanted)
    _check_network(wanted, bank, stream, recipe)
    if wanted.scenario != "NNs":
        check_resumed(bank, stream.task_names, recipe, stream.origin)
        return bank
    settings = NnsSettings()
    if wanted.period is not None:
        settings = replace(settings, period=wanted.period)
    origin = {**stream.origin(0), "settings": asdict(settings)}
    check_resumed(bank, bank.task_names, recipe, lambda _: origin)
    return bank


def _check_network(
    wanted: Bank, bank: MaskBank, stream: Tasks, recipe: st.Recipe | BaselineRecipe
) -> None:
    """Refuse another network; of a baseline, compare only the state of tasks."""
    module = st.make_model(wanted.model, input_shape=stream.input_shape, outputs=wanted.outputs)
    real_outputs = reserved_outputs(stream, None, None, wanted.outputs)
    if isinstance(recipe, st.Recipe):
        check_module(copy_for(bank.network, module), bank.network)
    else:
        baseline = make_baseline(
            recipe, module, input_shape=stream.input_shape, matrices=wanted.matrices
        )
        shared = replace(bank.network, constants="")  # which a baseline may have learned
        check_module(copy_for(shared, baseline.in_bank()[0]), shared)
    for name, value in (("real_outputs", real_outputs), ("outputs", wanted.outputs)):
        got = getattr(bank.network, name)
        if got != value:
            raise InputError(f"{bank.path}: {name} must be {value}, got {got}; give another bank")


def _recipe(wanted: Bank) -> st.Recipe | BaselineRecipe:
    if wanted.method is not None:
        more: dict[str, Any] = {k.replace("-", "_"): value for k, value in wanted.options}
        return BaselineRecipe.of(wanted.method).with_options(
            steps=wanted.steps, learning_rate=wanted.lr, seed=wanted.seed, **more
        )
    return recipe_of(_arguments(wanted, None))


def _from_shared(wanted: Bank, path: Path, file: Path) -> None:
    """Make a bank from an .npz of packed masks per layer: ``uint8 (tasks, bytes)`` in ``m0``..."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; shared masks are one .npz")
    try:
        with file.open("rb") as opened:  # numpy does not close a file that is no archive
            arrays = dict(np.load(opened, allow_pickle=False))
    except (ValueError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(f"{file}: must be the .npz of masks: {error}; fetch it again") from error
    accuracy = arrays.get("accuracy", ())
    if len(accuracy) < wanted.tasks:
        raise InputError(f"{file}: has {len(accuracy)} tasks, this run has {wanted.tasks}")
    if (path / "bank.json").exists():
        bank = MaskBank.open(path)
    else:
        shape = (784,)
        module = st.make_model(wanted.model, input_shape=shape, outputs=wanted.outputs)
        bank = st.create_bank(path, module, input_shape=shape, real_outputs=10)
    lacking = [f"m{i}" for i in range(len(bank.network.parameters)) if f"m{i}" not in arrays]
    if lacking:
        raise InputError(f"{file}: must have the masks of each layer, has no {lacking[0]}")
    masks = {p.name: arrays[f"m{i}"] for i, p in enumerate(bank.network.parameters)}
    bank.extend(
        TaskMasks(
            name=name,
            masks={layer: rows[index] for layer, rows in masks.items()},
            training={"accuracy": float(accuracy[index])},
        )
        for index, name in enumerate(f"permuted-{k:04}" for k in range(wanted.tasks))
        if name not in bank
    )
