"""Time supsup against its peers, side by side in one run: `python tools/bench.py one-shot`.

Candidates alternate in rounds; medians of single calls are compared, with their quartiles. Run it
on an idle machine. A table goes to stdout, or JSON with `--json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the script's own folder is there already, `tools.benchmarks` is not
    sys.path.insert(0, str(ROOT))

Result = dict[str, Any]


def main() -> None:
    """Run the benchmark named on the command line."""
    arguments = _parser().parse_args()
    from tools.benchmarks.timing import machine

    about = {"machine": machine()}
    results = []
    for result in arguments.run(arguments):
        results.append(result)
        if not arguments.json:
            print(_text(result), end="\n\n", flush=True)
    whole = about | ({"benchmarks": results} if arguments.case == "all" else results[0])
    if arguments.json:
        print(json.dumps(whole, sort_keys=True))
    else:
        print("machine:", _pairs(about["machine"]))
    if arguments.out:
        arguments.out.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


def _parser() -> argparse.ArgumentParser:
    from tools.arguments import positive

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = parser.add_subparsers(dest="case", required=True, metavar="CASE")
    one_shot = _case(cases, "one-shot", _one_shot, "one image, its task unknown: all peers")
    _network(one_shot, tasks=250)
    _peers(one_shot, "abcdef")
    one_shot.add_argument(
        "--peer-tasks",
        type=positive,
        default=250,
        help="float models that peer c opens at most, its time scaled up (%(default)s)",
    )
    sweep = _case(cases, "sweep", _sweep, "one-shot over the number of tasks")
    _network(sweep, tasks=[10, 25, 100, 250, 1000, 2500], outputs=500)
    _peers(sweep, "abf")
    sweep.add_argument("--plot", type=Path, metavar="FILE", help="write an SVG (needs matplotlib)")
    known = _case(cases, "known", _known, "the task known: staying on it, and switching")
    known.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    known.add_argument("--outputs", type=positive, help=OUTPUTS_HELP)
    known.add_argument("--tasks", type=positive, default=250, help="(%(default)s)")
    known.add_argument("--batch", type=positive, nargs="+", default=[1, 128], help="(1 and 128)")
    load = _case(cases, "load", _load, "seconds and memory to load, in fresh processes (Linux)")
    _network(load, tasks=[250, 2500])
    per_image = _case(cases, "per-image", _per_image, "the task of each row of a batch")
    _network(per_image, tasks=250)
    per_image.add_argument("--images", type=positive, default=128, help="(%(default)s)")
    screened = _case(cases, "screened", _screened, "one-shot with screening, on trained masks")
    screened.add_argument("--data", type=Path, required=True, help="folder of the shared data")
    screened.add_argument("--tasks", type=positive, default=2500, help="(%(default)s)")
    screened.add_argument("--images", type=positive, default=2000, help="(%(default)s)")
    recovery = _case(cases, "recovery", _recovery, "one step of a Hopfield recovery, BNNet")
    recovery.add_argument("--width", type=positive, default=2048, help="units (%(default)s)")
    recovery.add_argument("--batch", type=positive, nargs="+", default=[64], help="(64)")
    training = _case(cases, "training", _training, "one task trained, against a plain loop")
    training.add_argument("--steps", type=positive, default=1000, help="(%(default)s)")
    training.set_defaults(threads=os.cpu_count())  # as training itself takes
    _case(cases, "all", _all, "every case with its defaults").set_defaults(threads=None)
    return parser


MODELS = ("lenet-300-100", "fc-1024-1024")
OUTPUTS_HELP = "length of the logits (default: the paper's)"


def _case(
    cases: Any,  # noqa: ANN401 - argparse keeps the type to itself
    name: str,
    run: Callable[[argparse.Namespace], Iterator[Result]],
    text: str,
) -> argparse.ArgumentParser:
    """A subcommand with the options that all have."""
    from tools.arguments import positive

    parser: argparse.ArgumentParser = cases.add_parser(name, help=text, description=text)
    cache = Path(tempfile.gettempdir()) / "supsup-bench"
    parser.add_argument(
        "--cache",
        type=Path,
        default=cache,
        help="folder of banks and models (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=positive, default=1, help="of one call, for all candidates (1)"
    )
    parser.add_argument("--rounds", type=positive, help="visits to each candidate")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file too")
    parser.set_defaults(run=run)
    return parser


def _network(
    parser: argparse.ArgumentParser, *, tasks: int | list[int], outputs: int | None = None
) -> None:
    """Which network and how many tasks; several where the default is a list."""
    from tools.arguments import positive

    parser.add_argument("--model", choices=MODELS, default="lenet-300-100")
    parser.add_argument("--outputs", type=positive, default=outputs, help=OUTPUTS_HELP)
    nargs = "+" if isinstance(tasks, list) else None
    parser.add_argument("--tasks", type=positive, nargs=nargs, default=tasks, help="(%(default)s)")


def _peers(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--peers",
        type=_letters,
        default=default,
        help="letters of the peers to run: a, b in torch, c, d, e with ONNX Runtime, f the limit "
        "(%(default)s)",
    )


def _letters(text: str) -> str:
    if not set(text) <= set("abcdef"):
        raise argparse.ArgumentTypeError(f"must be some of the letters abcdef, got {text!r}")
    return text


def _setup(arguments: argparse.Namespace) -> Any:  # noqa: ANN401 - a Setup, whose module is heavy
    import torch
    from tools.benchmarks.timing import Setup

    torch.set_num_threads(arguments.threads)
    rounds = {} if arguments.rounds is None else {"rounds": arguments.rounds}
    return Setup(cache=arguments.cache, threads=arguments.threads, **rounds)


def _rounds(arguments: argparse.Namespace) -> dict[str, int]:
    """For cases whose number of rounds is their own."""
    return {} if arguments.rounds is None else {"rounds": arguments.rounds}


def _one_shot(arguments: argparse.Namespace) -> Iterator[Result]:
    from tools.benchmarks.inference import one_shot

    yield one_shot(
        _setup(arguments),
        model=arguments.model,
        outputs=arguments.outputs,
        tasks=arguments.tasks,
        peers=arguments.peers,
        peer_tasks=arguments.peer_tasks,
    )


def _sweep(arguments: argparse.Namespace) -> Iterator[Result]:
    from tools.benchmarks.inference import sweep
    from tools.benchmarks.plot import plot_sweep

    result = sweep(
        _setup(arguments),
        model=arguments.model,
        outputs=arguments.outputs,
        tasks=arguments.tasks,
        peers=arguments.peers,
    )
    if arguments.plot:
        title = f"{arguments.model}, {arguments.outputs} outputs, {arguments.threads} threads"
        print(plot_sweep(result["rows"], arguments.plot, title), file=sys.stderr)
    yield result


def _known(arguments: argparse.Namespace) -> Iterator[Result]:
    from tools.benchmarks.known import known

    yield known(
        _setup(arguments),
        models=arguments.model,
        outputs=arguments.outputs,
        tasks=arguments.tasks,
        batches=arguments.batch,
    )


def _load(arguments: argparse.Namespace) -> Iterator[Result]:
    from tools.benchmarks.memory import load

    yield load(
        _setup(arguments),
        model=arguments.model,
        outputs=arguments.outputs,
        tasks=arguments.tasks,
        **_rounds(arguments),
    )


def _per_image(arguments: argparse.Namespace) -> Iterator[Result]:
    from tools.benchmarks.inference import per_image

    yield per_image(
        _setup(arguments),
        model=arguments.model,
        outputs=arguments.outputs,
        tasks=arguments.tasks,
        count=arguments.images,
    )


def _screened(arguments: argparse.Namespace) -> Iterator[Result]:
    from tools.benchmarks.screened import screened

    yield screened(
        _setup(arguments), data=arguments.data, tasks=arguments.tasks, images=arguments.images
    )


def _recovery(arguments: argparse.Namespace) -> Iterator[Result]:
    from tools.benchmarks.recovery import recovery

    yield recovery(_setup(arguments), width=arguments.width, batches=arguments.batch)


def _training(arguments: argparse.Namespace) -> Iterator[Result]:
    from tools.benchmarks.training import training

    yield training(_setup(arguments), steps=arguments.steps, **_rounds(arguments))


def _all(arguments: argparse.Namespace) -> Iterator[Result]:
    """Each case as its own command line would run it, with this one's common options."""
    common = ["--cache", str(arguments.cache)]
    if arguments.threads is not None:
        common += ["--threads", str(arguments.threads)]
    if arguments.rounds is not None:
        common += ["--rounds", str(arguments.rounds)]
    for case in ALL:
        print("bench:", *case, file=sys.stderr)
        yield from _run_case([*case, *common])


def _run_case(words: list[str]) -> Iterator[Result]:
    arguments = _parser().parse_args(words)
    found: Iterator[Result] = arguments.run(arguments)
    return found


ALL = (
    ["one-shot"],
    ["one-shot", "--model", "fc-1024-1024"],
    ["sweep"],
    ["known"],
    ["load"],
    ["per-image"],
    ["recovery"],
    ["training"],
)


def _text(result: Result) -> str:
    from tools.benchmarks.timing import table

    title = f"{result['benchmark']}: {_pairs(result['settings'])}"
    ratio = f"\nratio: {result['ratio']}" if "ratio" in result else ""
    return f"{title}\n{table(result['rows'])}{ratio}"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


if __name__ == "__main__":
    main()
