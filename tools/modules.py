"""Train, export and compare the modules of `tests/zoo`: 40 kinds of networks and 270 operators.

`python tools/modules.py` writes docs/results/modules.json and the table of docs/RELIABILITY.md, and
exits with 1 if a module answered differently than trained or failed without a refusal.
`--only TEXT` tries those whose name contains it, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from supsup_runtime.console import positive

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from tools.reproduction.tables import record  # noqa: E402 (after the path)

from zoo.networks import NETWORKS  # noqa: E402 (after the path)
from zoo.operators import OPERATORS  # noqa: E402 (after the path)
from zoo.trial import Outcome, attempt  # noqa: E402 (after the path)

RESULTS, PAGE = ROOT / "docs/results/modules.json", ROOT / "docs/RELIABILITY.md"
_FAULTS = ("differs", "broke")
_ZOO = {"networks": NETWORKS, "operators": OPERATORS}
Results = dict[str, dict[str, dict[str, Any]]]


def main() -> None:
    """Run the command."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--only", default="", help="text that names must contain")
    made.add_argument("--processes", type=positive, default=1)
    arguments = made.parse_args()
    asked = [
        (kind, name)
        for kind, cases in _ZOO.items()
        for name in cases
        if arguments.only.lower() in name.lower()
    ]
    results: Results = {kind: {} for kind in _ZOO}
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        for (kind, name), outcome in zip(asked, pool.map(_tried, asked), strict=True):
            results[kind][name] = asdict(outcome)
            print(f"{kind} {name}: {outcome.verdict} {outcome.reason}", flush=True)
    print(table := _table(results))
    if not arguments.only:
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        record(PAGE, "modules", f"\n{table}\n")
    sys.exit(any(each["verdict"] in _FAULTS for kind in results.values() for each in kind.values()))


def _tried(case: tuple[str, str]) -> Outcome:
    kind, name = case
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as folder:
        return attempt(*_ZOO[kind][name], Path(folder))


def _table(results: Results) -> str:
    verdicts = ("one-shot", "forward alone", "refused", *_FAULTS)
    lines = [f"| | tried | {' | '.join(verdicts)} |", "|---" * 7 + "|"]
    for kind, cases in results.items():
        counts = Counter(each["verdict"] for each in cases.values())
        cells = [len(cases), *[counts[verdict] for verdict in verdicts]]
        lines.append(f"| {kind} | {' | '.join(map(str, cells))} |")
    found = [pair for cases in results.values() for pair in cases.items()]
    for verdict in verdicts[1:]:
        names = sorted(f"`{name}`" for name, each in found if each["verdict"] == verdict)
        lines += [f"\n{verdict.capitalize()}: {', '.join(names)}."] if names else []
    return "\n".join(lines)


if __name__ == "__main__":
    main()
