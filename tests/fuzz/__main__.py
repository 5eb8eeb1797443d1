"""Fuzz the readers and interfaces of supsup.

python -m fuzz run --cases 1000000        a campaign, which goes on where it stopped
python -m fuzz show bank 0 123            one case again, with what comes of it
python -m fuzz keep bank 0 123 name       put it into tests/fuzz/corpus
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.campaign import campaign, code_digest, fresh_seeds
from fuzz.case import Case
from fuzz.judge import judge, work_folder
from fuzz.report import to_text, write_table
from fuzz.target import Target
from fuzz.targets import TARGETS, load_target
from fuzz.worker import made_case

CORPUS = Path(__file__).parent / "corpus"
BUILD = Path(__file__).parents[2] / "build" / "fuzz"


def main() -> None:
    """Run the command."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = made.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--cases", type=int, default=20_000)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    run.add_argument("--record", type=Path, help="page whose table between markers is replaced")
    for name in ("show", "keep"):
        one = commands.add_parser(name)
        one.add_argument("target", choices=TARGETS)
        one.add_argument("seed", type=int)
        one.add_argument("number", type=int)
        if name == "keep":
            one.add_argument("name")
    arguments = made.parse_args()
    with TemporaryDirectory() as folder:
        seeds = fresh_seeds(Path(folder) / "seeds")
        if arguments.command == "run":
            _run(arguments, seeds)
        else:
            target = load_target(TARGETS[arguments.target].place)(seeds)
            _one(arguments, target, made_case(target, arguments.seed, arguments.number))


def _run(arguments: argparse.Namespace, seeds: Path) -> None:
    state = BUILD / f"{code_digest(seeds)}-{arguments.seed}.jsonl"
    found = campaign(arguments.cases, arguments.targets, arguments.seed, seeds, state)
    sys.stdout.write(to_text(found, arguments.seed) + "\n")
    if arguments.record:
        write_table(arguments.record, found, arguments.seed)
    sys.exit(
        any(
            kind not in {"answer", "refused", "endless"} for c in found.values() for kind in c.kinds
        )
    )


def _one(arguments: argparse.Namespace, target: Target, case: Case) -> None:
    if arguments.command == "keep":
        case.keep(CORPUS / f"{arguments.target}-{arguments.name}.zip")
        return
    sizes = {name: len(data) for name, data in case.files.items()}
    sys.stdout.write(f"{case.words} {case.odd} {sizes}\n")
    verdict = judge(target, case, work_folder(), lambda stage: print(stage, flush=True))  # noqa: T201
    sys.stdout.write(f"{asdict(verdict)}\n")


if __name__ == "__main__":
    main()
