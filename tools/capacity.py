"""How many patterns a Hopfield store gives back: `python tools/capacity.py --plot capacity.svg`.

Patterns are encoded one after the other; at each load a sample of them is asked for again, from the
pattern itself and from one with some bits flipped. A table goes to stdout, or JSON with `--json`.
With `--bank`, patterns are trained masks: runs of as many elements as there are units, first the
first run of each task, then the second of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.console import run_command, to_table
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.matrix import RULES, HopfieldMatrix, capacity, expected_bit_error
from supsup_runtime.hopfield.settle import settle
from supsup_runtime.hopfield.store import to_pattern

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the script's own folder is there already, `tools.pictures` is not
    sys.path.insert(0, str(ROOT))

LOADS = (0.05, 0.1, 0.138, 0.17, 0.2, 0.256, 0.3, 0.35, 0.4, 0.5)
NEAR = 0.02
FLIPPED = (0.0, 0.1)

Patterns = npt.NDArray[np.float32]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What one series of loads needs.

    Attributes:
        source: Where the patterns come from, as the table says it.
        patterns: ``float32 (patterns, d)`` of -1 and 1.
        rule: ``hebb`` or ``storkey``.
        probes: Patterns asked for at a load, at most; evenly over old and new ones.
        seed: Of the bits that are flipped.
    """

    source: str
    patterns: Patterns
    rule: str
    probes: int
    seed: int


def random_patterns(size: int, count: int, seed: int, *, density: float = 0.5) -> Patterns:
    """Random signs, of which a share of `density` is 1: ``float32 (count, size)``."""
    rng = np.random.default_rng([seed, size])
    return to_pattern(rng.random((count, size)) < density).reshape(count, size)


def bank_patterns(bank: MaskBank, size: int, count: int) -> Patterns:
    """Runs of `size` elements of a bank's masks: ``float32 (at most count, size)``.

    Raises:
        InputError: If no masked parameter has that many elements.
    """
    taken = list(islice(_runs(bank, size), count))
    if not taken:
        raise InputError(f"{bank.path}: no masked parameter of a task has {size} elements; --size")
    return np.stack(taken)


def _runs(bank: MaskBank, size: int) -> Iterator[Patterns]:
    tasks = list(bank)
    for parameter in bank.network.parameters:
        masks = [unpack_mask(task.masks[parameter.name], (parameter.size,)) for task in tasks]
        for start in range(0, parameter.size - size + 1, size):
            yield from (to_pattern(mask[start : start + size]) for mask in masks)


def loads(size: int, available: int) -> list[int]:
    """Numbers of patterns to look at, rising: `LOADS` times the units, as far as there are any."""
    counts = {max(1, round(load * size)) for load in LOADS}
    return sorted(count for count in counts if count <= available)


def measure(setup: Setup, counts: Sequence[int]) -> Iterator[list[Row]]:
    """Encode, and at each of `counts` ask a sample of the patterns: a row a share of flipped bits.

    A pattern counts as exact where the dynamics end in it, as near where they end within 2 % of
    its bits; both only where they end in a fixed point.
    """
    size = setup.patterns.shape[1]
    matrix = HopfieldMatrix(size, rule=setup.rule)
    rng = np.random.default_rng(setup.seed)
    done = 0
    for count in counts:
        for pattern in setup.patterns[done:count]:
            matrix.add(pattern)
        done = count
        asked = np.unique(np.linspace(0, count - 1, min(setup.probes, count)).astype(int))
        probes = setup.patterns[asked]
        common = {
            "bit_error": float(np.mean([matrix.bit_error(z) for z in probes])),
            "expected": expected_bit_error(size, count, setup.rule),
            "load": count / size,
            "patterns": count,
            "probes": len(probes),
            "rule": setup.rule,
            "size": size,
            "source": setup.source,
        }
        yield [common | _recovered(matrix, probes, share, rng) for share in FLIPPED]


def _recovered(
    matrix: HopfieldMatrix, probes: Patterns, share: float, rng: np.random.Generator
) -> Row:
    distances, diagonal = [], matrix.diagonal()
    for z in probes:
        start = z.copy()
        start[rng.choice(len(z), round(share * len(z)), replace=False)] *= -1
        end, fixed = settle(matrix.look, diagonal, start)
        distances.append(float(np.mean(end != z)) if fixed else 1.0)
    found = np.array(distances)
    return {
        "distance": float(found.mean()),
        "exact": float(np.mean(found == 0)),
        "flipped": share,
        "near": float(np.mean(found <= NEAR)),
    }


def table(rows: Sequence[Row]) -> str:
    """A line a load: shares given back in percent, from the pattern and from a flipped one."""
    header = ["patterns", "of", "rule", "units", "load", "0 %: exact", "near"]
    header += ["10 %: exact", "near", "bits turned", "expected"]
    lines: list[tuple[object, ...]] = []
    for own, other in zip(rows[::2], rows[1::2], strict=True):
        shares = [f"{100 * row[key]:.0f}" for row in (own, other) for key in ("exact", "near")]
        errors = [f"{own[key]:.3%}" for key in ("bit_error", "expected")]
        head = (own["patterns"], own["source"], own["rule"], own["size"], f"{own['load']:.3f}")
        lines.append((*head, *shares, *errors))
    return to_table(header, lines)


def plot(rows: Sequence[Row], file: Path) -> str:
    """Draw a panel a source and size: shares within 2 % over the load, with the theory's lines.

    Returns:
        What was written, or that matplotlib is missing.
    """
    from tools.pictures import picture

    sources, sizes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("source", "size"))
    high, wide = len(sources), len(sizes)

    def draw(grid: Any) -> None:  # noqa: ANN401 - matplotlib's
        for source, line in zip(sources, grid, strict=True):
            for size, axes in zip(sizes, line, strict=True):
                own = [row for row in rows if (row["source"], row["size"]) == (source, size)]
                _panel(axes, own, size)
                axes.set_title(f"{source}, {size} units", fontsize="medium")
        first = grid[0][0]
        handles, labels = first.get_legend_handles_labels()
        first.figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")

    shape = {"figsize": (5 * wide, 3.6 * high), "squeeze": False, "sharey": True}
    return picture(file, draw, nrows=high, ncols=wide, **shape)


def _panel(axes: Any, rows: Sequence[Row], size: int) -> None:  # noqa: ANN401 - matplotlib's
    for color, rule in zip(("tab:blue", "tab:orange"), RULES, strict=True):
        for style, share in zip(("-", "--"), FLIPPED, strict=True):
            own = [row for row in rows if (row["rule"], row["flipped"]) == (rule, share)]
            x, y = ([row[key] for row in own] for key in ("load", "near"))
            label = f"{rule}, {share:.0%} of the bits flipped"
            axes.plot(x, y, style, color=color, marker=".", label=label)
        axes.axvline(
            capacity(size, rule) / size, color=color, linestyle=":", label=f"{rule}, theory"
        )
    axes.set(
        xlabel="patterns a unit", ylabel="given back within 2 % of the bits", ylim=(-0.03, 1.03)
    )
    axes.grid(visible=True, alpha=0.3)


def main() -> None:
    """Run the command."""
    run_command("capacity", _run)


def _run() -> None:
    arguments = _parser().parse_args()
    setups = list(_setups(arguments))
    total = sum(len(loads(s.patterns.shape[1], len(s.patterns))) for s in setups)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    rows: list[Row] = []
    start = time.perf_counter()
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("loads", total=total)
        for setup in setups:
            size = setup.patterns.shape[1]
            progress.update(bar, description=f"{setup.source}, {setup.rule}, {size} units")
            for found in measure(setup, loads(size, len(setup.patterns))):
                rows += found
                progress.advance(bar)
    value = {
        "capacity": {rule: {str(d): capacity(d, rule) for d in arguments.size} for rule in RULES},
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "seed": arguments.seed,
    }
    print(json.dumps(value, sort_keys=True) if arguments.json else table(rows))
    if arguments.out:
        arguments.out.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    if arguments.plot:
        print(plot(rows, arguments.plot), file=sys.stderr)


def _setups(arguments: argparse.Namespace) -> Iterator[Setup]:
    bank = MaskBank.open(arguments.bank, verify=False) if arguments.bank else None
    for size in arguments.size:
        count = max(1, round(LOADS[-1] * size))
        found = {
            f"random {p:g}": random_patterns(size, count, arguments.seed, density=p)
            for p in arguments.density
        }
        if bank is not None:
            found["trained"] = bank_patterns(bank, size, count)
        for source, patterns in found.items():
            for rule in RULES:
                yield Setup(
                    source=source,
                    patterns=patterns,
                    rule=rule,
                    probes=arguments.probes,
                    seed=arguments.seed,
                )


def _parser() -> argparse.ArgumentParser:
    from tools.arguments import positive

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=positive, nargs="+", default=[256, 2048], help="units (256 and 2048)"
    )
    parser.add_argument(
        "--density", type=float, nargs="+", default=[0.5], help="of random patterns (0.5)"
    )
    parser.add_argument("--bank", type=Path, help="a bank, for its masks beside random patterns")
    parser.add_argument("--probes", type=positive, default=50, help="asked a load (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write an SVG or PNG")
    return parser


if __name__ == "__main__":
    main()
