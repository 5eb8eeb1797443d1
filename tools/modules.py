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
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from zoo.networks import NETWORKS  # noqa: E402 (after the path)
from zoo.operators import OPERATORS  # noqa: E402 (after the path)
from zoo.trial import attempt  # noqa: E402 (after the path)

RESULTS, PAGE = ROOT / "docs/results/modules.json", ROOT / "docs/RELIABILITY.md"
_START, _END = "<!-- modules -->", "<!-- /modules -->"
_KINDS = {"networks": NETWORKS, "operators": OPERATORS}
_FAULTS = ("differs", "broke")
Results = dict[str, dict[str, dict[str, Any]]]


def main() -> None:
    """Run the command."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--only", default="", help="text that names must contain")
    only = made.parse_args().only.lower()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    results: Results = {}
    for kind, cases in _KINDS.items():
        results[kind] = {}
        for name, (make, shape) in cases.items():
            if only in name.lower():
                with TemporaryDirectory() as folder:
                    outcome = attempt(make, shape, Path(folder))
                results[kind][name] = asdict(outcome)
                print(f"{kind} {name}: {outcome.verdict} {outcome.reason}", flush=True)
    if not only:
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        _insert(_table(results))
    print(_table(results))
    found = [each["verdict"] for cases in results.values() for each in cases.values()]
    sys.exit(any(verdict in _FAULTS for verdict in found))


def _table(results: Results) -> str:
    head = "| | tried | with one-shot | forward alone | refused by name | differed | failed |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    verdicts = ("one-shot", "forward alone", "refused", *_FAULTS)
    for kind, cases in results.items():
        counts = Counter(each["verdict"] for each in cases.values())
        cells = [len(cases), *[counts[verdict] for verdict in verdicts]]
        lines.append(f"| {kind} | {' | '.join(map(str, cells))} |")
    for verdict in verdicts[1:]:
        named = sorted(
            name
            for cases in results.values()
            for name, each in cases.items()
            if each["verdict"] == verdict
        )
        if named:
            lines.append(f"\n{verdict.capitalize()}: {', '.join(f'`{name}`' for name in named)}.")
    return "\n".join(lines)


def _insert(table: str) -> None:
    page = PAGE.read_text() if PAGE.exists() else f"# Reliability\n\n{_START}\n{_END}\n"
    before, _, rest = page.partition(_START)
    _, _, after = rest.partition(_END)
    PAGE.write_text(f"{before}{_START}\n\n{table}\n\n{_END}{after}")


if __name__ == "__main__":
    main()
