"""The way of recoveries as a picture: `python tools/trace.py recovered.json --plot trace.svg`.

Each file holds what `supsup-hopfield recover recover.onnx x.npy --json` printed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supsup_runtime.console import run_command
from supsup_runtime.errors import InputError
from supsup_runtime.recovery.result import TOLERANCE

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the script's own folder is there already, `tools.pictures` is not
    sys.path.insert(0, str(ROOT))

Recovery = Mapping[str, Any]
"""With ``verdict``, ``expected_entropy`` and ``trace``: distance, entropy, energy by step."""
PRINTED = "must be what `supsup-hopfield recover --json` prints"


def plot(recoveries: Mapping[str, Recovery], file: Path) -> str:
    """Draw three panels over the steps: distance, entropy with what was expected, energy.

    Args:
        recoveries: By what the legend calls them.
        file: An SVG or PNG.

    Returns:
        What was written, or that matplotlib is missing.
    """
    from tools.pictures import picture

    def draw(panels: Any) -> None:  # noqa: ANN401 - matplotlib's
        distance, entropy, energy = panels
        for number, (name, recovery) in enumerate(recoveries.items()):
            look = {"color": f"C{number % 10}", "marker": ".", "markersize": 3}
            trace, expected = recovery["trace"], recovery["expected_entropy"]
            label = f"{name}, {recovery['verdict']}"
            distance.plot([100 * d for d in trace["distance"]], label=label, **look)
            entropy.plot(trace["entropy"], **look)
            energy.plot(trace["energy"], **look)
            if expected is not None:
                entropy.axhline(expected, color=look["color"], linestyle=":", alpha=0.6)
        distance.axhline(100 * TOLERANCE, color="grey", linestyle="--", linewidth=0.8)
        distance.set(ylabel="distance from the\nfixed point, % of bits")
        entropy.set(ylabel="entropy, nats\n(dotted: expected)", ylim=(0, None))
        energy.set(ylabel="energy", xlabel="step")
        for axes in panels:
            axes.grid(visible=True, alpha=0.3)
        columns = min(len(recoveries), 3)
        distance.figure.legend(loc="outside lower center", ncols=columns, fontsize="small")

    return picture(file, draw, nrows=3, sharex=True, figsize=(6.4, 7.2))


def read(files: Sequence[Path]) -> dict[str, Recovery]:
    """The recoveries of some files, each named after its file and its task.

    Raises:
        InputError: If a file is missing, or not what the command prints.
    """
    found: dict[str, Recovery] = {}
    for file in files:
        try:
            value = json.loads(file.read_text())
            name = f"{file.stem}: {value['task']}"
            used = {key: value[key] for key in ("verdict", "expected_entropy")}
            numbers = [used["expected_entropy"] or 0.0]
            for key in ("distance", "entropy", "energy"):
                numbers += value["trace"][key]
            finite = all(abs(number) < math.inf for number in numbers)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{file}: {PRINTED}: {error!r:.80}") from error
        if not finite:
            raise InputError(f"{file}: a recovery that diverged has no picture")
        found[name] = {**used, "trace": value["trace"]}
    return found


def main() -> None:
    """Run the command."""
    run_command("trace", _run)


def _run() -> None:
    made = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="JSON of a recovery, a file each"
    )
    made.add_argument(
        "--plot", type=Path, metavar="FILE", required=True, help="write an SVG or PNG"
    )
    arguments = made.parse_args()
    print(plot(read(arguments.files), arguments.plot), file=sys.stderr)


if __name__ == "__main__":
    main()
