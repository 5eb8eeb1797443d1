"""Time supsup and its alternatives in one run: `python tools/bench.py one-shot`.

Candidates alternate in rounds; the table on stdout has medians and quartiles of single calls. Run
it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supsup_runtime.bank.network import STATE_DTYPES
from supsup_runtime.console import positive, run_command
from supsup_runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # so that `tools.benchmarks` can be imported
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from tools.benchmarks.timing import Result

MODELS = ("lenet-300-100", "fc-1024-1024")
PEERS = "abcfp"
AGAINST = ("export", "export --no-check", "add", "unknown", "known")
COMMON = ("case", "function", "cache", "threads", "rounds", "json", "plot")
"""Options that all cases have."""


def main() -> None:
    """Run the command."""
    run_command("bench", _run)


def _run() -> None:
    arguments = _parser().parse_args()
    plot: Path | None = getattr(arguments, "plot", None)
    if plot and not plot.parent.is_dir():
        raise InputError(f"--plot: {plot.parent} must be a folder, got none; make it first")
    import torch
    from tools.benchmarks.timing import Setup, table
    from tools.machine import machine

    torch.set_num_threads(arguments.threads)
    setup = Setup(cache=arguments.cache, threads=arguments.threads, rounds=arguments.rounds)
    own = {name: value for name, value in vars(arguments).items() if name not in COMMON}
    module, _, function = arguments.function.partition(":")
    result: Result = getattr(import_module(f"tools.benchmarks.{module}"), function)(setup, **own)
    settings = {"threads": setup.threads, "rounds": setup.rounds, **own, **result.settings}
    about = machine()
    if arguments.json:
        value = {"benchmark": arguments.case, "machine": about, "ratio": result.ratio}
        value |= {"rows": result.rows, "settings": settings}
        print(json.dumps(value, sort_keys=True, default=str))
    else:
        print(f"{arguments.case}: {_pairs(settings)}\n{table(result.rows)}")
        print(f"ratio: {result.ratio}\nmachine: {_pairs(about)}")
    if plot and result.draw:
        from tools.pictures import picture

        print(picture(plot, result.draw, figsize=(7, 4.5)), file=sys.stderr)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _parser() -> argparse.ArgumentParser:
    """Return a parser; options of a case are the arguments of its function."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = parser.add_subparsers(dest="case", required=True, metavar="CASE")
    one_shot = _case(cases, "one-shot", "inference:one_shot", "one image, task unknown")
    _network(one_shot, tasks=250)
    _peers(one_shot, PEERS)
    sweep = _case(cases, "sweep", "inference:sweep", "one-shot by number of tasks")
    _network(sweep, tasks=[10, 25, 100, 250, 1000, 2500], outputs=500)
    _peers(sweep, "abf")
    _plot(sweep)
    known = _case(cases, "known", "known:known", "task known: the same in every call, or another")
    _network(known, tasks=250, model=list(MODELS))
    _number(known, "--batch-size", [1, 128])
    text = "load time and memory, in fresh processes (Linux)"
    _network(_case(cases, "load", "memory:load", text, rounds=3), tasks=[250, 2500])
    per_image = _case(cases, "per-image", "inference:per_image", "a task for each row of a batch")
    _network(per_image, tasks=250)
    _number(per_image, "--images", 128)
    text = "screened one-shot on trained masks; each image is a round"
    screened = _case(cases, "screened", "screened:screened", text)
    screened.add_argument("--data", type=Path, required=True, help="folder of the shared data")
    _number(screened, "--tasks", 2500)
    _number(screened, "--images", 2000)
    _case(cases, "recovery", "recovery:recovery", "one step of Hopfield recovery, BNNet")
    text = "bytes of ResNet-50's tasks with random masks, and how fast they are read"
    storage = _case(cases, "storage", "storage:storage", text)
    _number(storage, "--tasks", 100)
    _number(storage, "--er", [4, 8, 16])
    storage.add_argument("--state", choices=STATE_DTYPES, default="float16")
    text = "a bank of many tasks: opening, changing, merging"
    large = _case(cases, "large", "large:large", text, rounds=5)
    _network(large, tasks=10_000, outputs=500)
    _learning(cases)
    text = "export, add and calls, compared with another revision"
    against = _case(cases, "against", "against:against", text)
    against.add_argument("revision", metavar="REV", help="git revision")
    text = "interpreter with the packages of REV (default: this one)"
    against.add_argument("--python", default=sys.executable, metavar="FILE", help=text)
    text = "what to time (default: all)"
    against.add_argument("--cases", nargs="+", choices=AGAINST, default=AGAINST, help=text)
    _number(against, "--tasks", 255)
    _number(against, "--added-to", 2500)
    return parser


def _learning(cases: Any) -> None:  # noqa: ANN401 - argparse keeps the type to itself
    """Add the cases of learning tasks."""
    text = "training one task, compared with a plain loop"
    task = _case(cases, "train-task", "training:one_task", text, rounds=5)
    text = "learning a stream, by processes, workers, tasks at once and device"
    training = _case(cases, "training", "training:training", text, rounds=1)
    for each in (task, training):
        each.set_defaults(threads=os.cpu_count())  # the default of training
        _number(each, "--steps", 1000)
    _number(training, "--tasks", 16)
    training.add_argument("--model", nargs="+", default=[MODELS[0]], help="default: %(default)s")
    text = "data set, as of supsup-train (default: generated)"
    training.add_argument("--data", type=Path, metavar="PATH", help=text)
    _plot(training)


def _case(
    cases: Any,  # noqa: ANN401 - argparse keeps the type to itself
    name: str,
    function: str,
    text: str,
    *,
    rounds: int = 9,
) -> argparse.ArgumentParser:
    """Add a subcommand with the common options; `function` is ``module:name``."""
    parser: argparse.ArgumentParser = cases.add_parser(name, help=text, description=text)
    cache = Path(tempfile.gettempdir()) / "supsup-bench"
    text = "folder of banks and models (default: %(default)s)"
    parser.add_argument("--cache", type=Path, default=cache, help=text)
    text = "threads per call (default: %(default)s)"
    parser.add_argument("--threads", type=positive, default=1, help=text)
    text = "visits to each candidate (default: %(default)s)"
    parser.add_argument("--rounds", type=positive, default=rounds, help=text)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(function=function)
    return parser


def _network(
    parser: argparse.ArgumentParser,
    *,
    tasks: int | list[int],
    outputs: int | None = None,
    model: str | list[str] = MODELS[0],
) -> None:
    """Add options; a list as default allows several values."""
    nargs = "+" if isinstance(model, list) else None
    parser.add_argument("--model", choices=MODELS, nargs=nargs, default=model)
    text = "length of the logits (default: the paper's)"
    parser.add_argument("--outputs", type=positive, default=outputs, help=text)
    _number(parser, "--tasks", tasks)


def _number(parser: argparse.ArgumentParser, option: str, default: int | list[int]) -> None:
    nargs = "+" if isinstance(default, list) else None
    parser.add_argument(
        option, type=positive, nargs=nargs, default=default, help="default: %(default)s"
    )


def _plot(parser: argparse.ArgumentParser) -> None:
    text = "write an SVG (needs matplotlib)"
    parser.add_argument("--plot", type=Path, metavar="FILE", help=text)


def _peers(parser: argparse.ArgumentParser, default: str) -> None:
    text = (
        "peers: a, b (torch), c (ONNX Runtime), f (lower bound), p (portable); default: %(default)s"
    )
    parser.add_argument("--peers", type=_letters, default=default, help=text)


def _letters(text: str) -> str:
    if not set(text) <= set(PEERS):
        raise argparse.ArgumentTypeError(f"must have only letters of {PEERS}, got {text!r}")
    return text


if __name__ == "__main__":
    main()
