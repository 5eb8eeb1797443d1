"""Reproduce a table or figure, from data to documentation: `python tools/reproduce.py digits`.

Learns the banks, exports them, measures every task through the exported models, and writes
NAME.json and NAME.svg; the table goes to stdout. What is finished is kept in the work folder: the
same command goes on where it stopped, also after a kill. An experiment as it stands updates its own
rows of docs/REPRODUCIBILITY.md as well; one with --tasks, --images or --bank only with --record.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from supsup_runtime.console import run_command, to_table
from supsup_runtime.errors import InputError
from supsup_runtime.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the script's own folder is there, `tools.reproduction` is not
    sys.path.insert(0, str(ROOT))

UNFINISHED = 75  # EX_TEMPFAIL of sysexits.h


def main() -> None:
    """Run the experiment named on the command line."""
    run_command("reproduce", _run)


def _run() -> None:
    arguments = _parser().parse_args()
    from tools.reproduction.budget import OutOfTimeError
    from tools.reproduction.catalogue import EXPERIMENTS

    if arguments.list:
        rows = [(e.name, f"{e.seconds / 60:.0f} min", e.title) for e in EXPERIMENTS.values()]
        print(to_table(("name", "about", "what"), rows))
        return
    if arguments.name not in EXPERIMENTS:
        raise InputError(
            f"experiment: must be one of {', '.join(EXPERIMENTS)}, got {arguments.name!r}; --list "
            "says what each is"
        )
    try:
        _carry_out(arguments)
    except OutOfTimeError:
        sys.stderr.write(
            f"reproduce: stopped after {arguments.seconds:g} s; the same command goes on\n"
        )
        sys.exit(UNFINISHED)


def _carry_out(arguments: argparse.Namespace) -> None:
    from tools.reproduction.budget import Budget
    from tools.reproduction.catalogue import EXPERIMENTS
    from tools.reproduction.data import DataFolder
    from tools.reproduction.experiment import altered, tiny
    from tools.reproduction.plot import plot
    from tools.reproduction.record import record
    from tools.reproduction.running import Run, carry_out
    from tools.reproduction.summary import to_text

    experiment = EXPERIMENTS[arguments.name]
    if arguments.tiny:
        experiment = tiny(experiment)
    experiment = altered(experiment, tasks=arguments.tasks, images=arguments.images)
    own = dict(map(_bank, arguments.bank))
    overrides = {
        name: getattr(arguments, name)
        for name in ("tasks", "images", "tiny")
        if getattr(arguments, name)
    }
    if arguments.tiny and arguments.record:
        raise InputError("--record: tiny numbers mean nothing and are not recorded; leave one out")
    recorded = arguments.record or not (overrides or own)
    folder = arguments.work / ("tiny" if arguments.tiny else "full") / experiment.name
    run = Run(
        folder=folder,
        data=DataFolder(arguments.data),
        own=own,
        threads=arguments.threads,
        budget=Budget(arguments.seconds),
        command=_command(arguments),
        overrides=overrides,
    )
    result = carry_out(experiment, run)
    if recorded:
        record(ROOT / "docs" / "REPRODUCIBILITY.md", experiment, result)
        folder = ROOT / "docs" / "results"
        folder.mkdir(exist_ok=True)
    text = json.dumps(result, sort_keys=True)
    write_whole(folder / f"{experiment.name}.json", f"{text}\n".encode())
    sys.stderr.write(plot(experiment, result["rows"], folder / f"{experiment.name}.svg") + "\n")
    print(text if arguments.json else to_text(experiment, result["rows"]))


def _command(arguments: argparse.Namespace) -> str:
    """What a reader types, with what the numbers depend on alone."""
    words = [f"python tools/reproduce.py {arguments.name}"]
    words += [f"--{n} {v}" for n in ("tasks", "images") if (v := getattr(arguments, n)) is not None]
    return " ".join([*words, *(["--tiny"] if arguments.tiny else [])])


def _bank(text: str) -> tuple[str, Path]:
    key, equals, path = text.partition("=")
    if not (key and equals and path):
        raise InputError(f"--bank: must be KEY=PATH, got {text!r}; a wrong KEY lists the keys")
    return key, Path(path)


def _parser() -> argparse.ArgumentParser:
    from tools.arguments import positive

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", help="the experiment; see --list")
    parser.add_argument("--list", action="store_true", help="name the experiments, and stop")
    parser.add_argument("--tiny", action="store_true", help="the same steps in seconds, on digits")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "reproduction",
        metavar="DIR",
        help="banks, models and measurements (default: reproduction/ of the checkout)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder that holds mnist/; else SUPSUP_DATA"
    )
    parser.add_argument(
        "--bank",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="take this bank, if it is the wanted one, rather than learn it",
    )
    parser.add_argument("--tasks", type=int, help="another number of tasks in every bank")
    parser.add_argument("--images", type=int, help="another number of images a task in every row")
    parser.add_argument("--threads", type=positive, help="of PyTorch, and of a call (1)")
    parser.add_argument(
        "--seconds", type=_seconds, help=f"stop cleanly after these, with status {UNFINISHED}"
    )
    parser.add_argument("--record", action="store_true", help="update docs/ whatever was changed")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, not a table")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return seconds


if __name__ == "__main__":
    main()
