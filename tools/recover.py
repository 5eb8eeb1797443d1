"""HopSupSup, from data to tables: `python tools/recover.py --data mnist/ --plot trace.svg`.

For each seed: learns the bank with supsup-train, encodes it and deletes its masks, exports the
model, and recovers each task's mask from its test images, in batches of 64 within one pass. Then it
leaves each task out of the store in turn, and recovers from a start of zero, from small batches and
from single images. What is finished is kept in the work folder: the same command goes on where it
stopped, and more seeds or orders add to what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supsup_runtime.console import run_command
from supsup_runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the script's own folder is there already, `tools.recovery` is not
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from tools.recovery.setting import Setting


def main() -> None:
    """Run the command."""
    run_command("recover", _run)


def _run() -> None:
    arguments = _parser().parse_args()
    from tools.recovery.measuring import Seed, measure
    from tools.recovery.report import tables, to_markdown, to_text
    from tools.recovery.setting import PAPER, TINY
    from tools.reproduction.store import Store, claim

    if (arguments.data is None) != arguments.tiny:
        raise InputError(
            "data: give the folder of MNIST with --data, or --tiny for the same steps on the "
            "bundled digits; one of the two"
        )
    setting = TINY if arguments.tiny else PAPER
    data = arguments.data or "digits"
    name = "hopfield-tiny" if arguments.tiny else "hopfield"
    folder = arguments.work or ROOT / "reproduction" / name
    stream = setting.stream(data)  # data that are missing are told of before anything is made
    claim(folder, setting.told())
    store = Store(folder / "recoveries.jsonl")
    lines: list[dict[str, Any]] = []
    for number in arguments.seeds:
        first = number == arguments.seeds[0]
        seed = Seed(number=number, orders=arguments.orders, first=first)
        lines += measure(setting, data, stream, seed, folder, store)
    made = tables(lines, setting)
    if arguments.json:
        print(json.dumps(_value(arguments, lines), sort_keys=True, allow_nan=False))
    else:
        print(to_markdown(made) if arguments.markdown else to_text(made))
    if arguments.plot:
        print(_plot(lines, setting, arguments.plot), file=sys.stderr)


def _value(arguments: argparse.Namespace, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from tools.benchmarks.timing import machine
    from tools.recovery.report import bars
    from tools.recovery.setting import PAPER, TINY

    setting = TINY if arguments.tiny else PAPER
    return {
        "bars": bars(lines, setting) if setting.judged else [],
        "machine": machine(),
        "orders": arguments.orders,
        "recoveries": lines,
        "seeds": arguments.seeds,
        "setting": setting.told(),
    }


def _plot(lines: Sequence[dict[str, Any]], setting: Setting, file: Path) -> str:
    """The traces of the first seed and order, the paper's way: to the end, without looks."""
    from tools.recovery.setting import ways
    from tools.trace import plot, to_way

    way, first = ways(setting)[1].name, lines[0]
    like = {"seed": first["seed"], "order": first["order"], "left_out": None, "way": way}
    own = [line for line in lines if all(line[key] == value for key, value in like.items())]
    return plot(
        [to_way(line["recovered"], name=line["task"], place=line["task"]) for line in own], file
    )


def _parser() -> argparse.ArgumentParser:
    from tools.arguments import positive

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", metavar="DIR", help="folder of MNIST's four IDX files")
    parser.add_argument("--tiny", action="store_true", help="the same steps in seconds, on digits")
    parser.add_argument(
        "--seeds", type=_seeds, default=[0, 1, 2], help="of the weights and batches (0,1,2)"
    )
    parser.add_argument(
        "--orders", type=positive, default=1, help="of the test images, seeded from 0 on (1)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="banks, models and measurements (default: reproduction/hopfield of the checkout)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="write the first seed's traces as SVG or PNG"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="all numbers as JSON, not tables")
    form.add_argument("--markdown", action="store_true", help="tables in Markdown")
    return parser


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) < 2**31 for part in parts):
        raise argparse.ArgumentTypeError(f"must be whole numbers and commas, got {text!r}")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"must differ, got {text!r}")
    return seeds


if __name__ == "__main__":
    main()
