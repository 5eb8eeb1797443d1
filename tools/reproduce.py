"""Reproduce a table or figure of the documentation: `python tools/reproduce.py digits`.

Learns and exports banks, measures every task, prints tables, and writes NAME.json and NAME.svg.
After an interruption, the same command continues from the work folder. Without changed numbers,
--bank or --tiny it also updates docs/.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from supsup_runtime.console import add_renamed, positive, run_command, to_table
from supsup_runtime.errors import InputError
from supsup_runtime.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
if str(ROOT) not in sys.path:  # the script's own folder is there, `tools.reproduction` is not
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from tools.reproduction.experiment import Experiment
    from tools.reproduction.store import Line

NUMBERS = {
    "tasks": "tasks in every bank",
    "per_task": "test images per task",
    "seeds": "hopfield: seeds of weights and batches",
    "orders": "hopfield: orders of the test images",
}
"""Numbers of an experiment that options change."""


def main() -> None:
    """Run the command."""
    run_command("reproduce", _run)


def _run() -> None:
    arguments = _parser().parse_args()
    from tools.reproduction.catalogue import EXPERIMENTS

    if arguments.list:
        rows = [(e.name, f"{e.seconds / 60:.0f} min", e.title) for e in EXPERIMENTS.values()]
        print(to_table(("name", "about", "what"), rows))
        return
    if arguments.from_results:
        for experiment in EXPERIMENTS.values():
            _rewrite(experiment)
        return
    if arguments.name not in EXPERIMENTS:
        raise InputError(
            f"experiment: must be one of {', '.join(EXPERIMENTS)}, got {arguments.name!r}; --list "
            "describes them"
        )
    _carry_out(EXPERIMENTS[arguments.name], arguments)


def _rewrite(experiment: Experiment) -> None:
    file = RESULTS / f"{experiment.name}.json"
    result = json.loads(file.read_text())
    experiment = experiment.altered(result["overrides"])
    _record(experiment, result)
    experiment.plot(result["rows"], file.with_suffix(".svg"))


def _record(experiment: Experiment, result: Line) -> None:
    from tools.reproduction.tables import record

    name = f"reproduce:{experiment.name}"
    record(ROOT / "docs" / experiment.document, name, experiment.block(result))


def _carry_out(experiment: Experiment, arguments: argparse.Namespace) -> None:
    from tools.reproduction.tables import to_text

    if arguments.tiny and arguments.record:
        raise InputError("--record: --tiny results are meaningless; leave out one of the two")
    numbers = {name: value for name in NUMBERS if (value := getattr(arguments, name)) is not None}
    for name in numbers:
        if name not in experiment.options:
            raise InputError(f"{_option(name)}: {experiment.name} has no such option; leave it out")
    if arguments.tiny:
        experiment = experiment.tiny()
    experiment = experiment.altered(numbers)
    folder = arguments.work / ("tiny" if arguments.tiny else "full") / experiment.name
    rows = _measured(experiment, folder, arguments)
    tables = experiment.tables(rows)
    result = _result(experiment, arguments, numbers)
    result |= {"rows": rows, "tables": [asdict(table) for table in tables]}
    if arguments.record or not (numbers or arguments.tiny or arguments.bank):
        _record(experiment, result)
        folder = RESULTS
        folder.mkdir(exist_ok=True)
    text = json.dumps(result, sort_keys=True)
    write_whole(folder / f"{experiment.name}.json", f"{text}\n".encode())
    sys.stderr.write(experiment.plot(rows, folder / f"{experiment.name}.svg") + "\n")
    print(text if arguments.json else "\n\n".join([to_text(tables), *experiment.notes(rows)]))


def _measured(experiment: Experiment, folder: Path, arguments: argparse.Namespace) -> list[Line]:
    from tools.reproduction.data import DataFolder
    from tools.reproduction.experiment import Run
    from tools.reproduction.store import Store, claim

    own = dict(map(_bank, arguments.bank))
    unknown = sorted(set(own) - set(experiment.banks))
    if unknown:
        raise InputError(
            f"--bank: {experiment.name} has the banks {', '.join(experiment.banks) or '(none)'}, "
            f"got {unknown[0]!r}"
        )
    claim(folder, experiment.setting())
    data = DataFolder(arguments.data, arguments.work / "data")
    store = Store(folder / "rows.jsonl")
    how = {"threads": arguments.threads, "workers": arguments.workers}
    run = Run(folder=folder, data=data, own=own, store=store, **how)
    return experiment.measure(run)


def _result(experiment: Experiment, arguments: argparse.Namespace, numbers: dict[str, int]) -> Line:
    """Return a result without rows and tables."""
    from tools.machine import machine

    words = [f"python tools/reproduce.py {experiment.name}"]  # with the options that change numbers
    words += [f"{_option(name)} {value}" for name, value in numbers.items()]
    return {
        "command": " ".join([*words, *(["--tiny"] if arguments.tiny else [])]),
        "differs": experiment.differs,
        "experiment": experiment.name,
        "machine": machine(),
        "overrides": numbers | ({"tiny": True} if arguments.tiny else {}),
        "setting": experiment.setting(),
        "threads": arguments.threads or 1,
        "title": experiment.title,
    }


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _bank(text: str) -> tuple[str, Path]:
    key, equals, path = text.partition("=")
    if not (key and equals and path):
        raise InputError(f"--bank: must be KEY=PATH, got {text!r}; a wrong KEY lists the keys")
    return key, Path(path)


def _workers(text: str) -> str:
    return text if text == "auto" else str(positive(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, work = parser.add_argument, ROOT / "reproduction"
    add("name", nargs="?", help="experiment, see --list")
    add("--list", action="store_true", help="list the experiments")
    add("--tiny", action="store_true", help="run in seconds, on bundled digits")
    text = "keep banks, models and measurements here (default: reproduction/)"
    add("--work", type=Path, default=work, metavar="DIR", help=text)
    add("--data", type=Path, metavar="DIR", help="folder with mnist/, or SUPSUP_DATA")
    text = "use this bank, if it matches, instead of learning one"
    add("--bank", action="append", default=[], metavar="KEY=PATH", help=text)
    for name, text in NUMBERS.items():
        add(_option(name), type=positive, metavar="N", help=text)
    add("--threads", type=positive, metavar="N", help="threads of PyTorch, and per call (1)")
    text = "learn tasks side by side in N processes, or auto, unless tasks depend on each other"
    add("--workers", type=_workers, metavar="N", help=text)
    add("--record", action="store_true", help="update docs/ in these cases as well")
    add("--from-results", action="store_true", help="write docs/ from docs/results")
    add("--json", action="store_true", help="print JSON instead of tables")
    add_renamed(parser, {"--images": "--per-task"})
    return parser


if __name__ == "__main__":
    main()
