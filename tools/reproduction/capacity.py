"""Measure how many patterns a Hopfield store recovers.

A sample of the encoded patterns is recovered from the pattern itself and from one with flipped
bits. Trained patterns are runs of masks: the first run of each task, then the second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tools.pictures import picture
from tools.reproduction.experiment import Experiment, Run
from tools.reproduction.learning import tiny_bank
from tools.reproduction.store import Line
from tools.reproduction.tables import Table, compact

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.matrix import RULES, HopfieldMatrix, capacity, expected_bit_error
from supsup_runtime.hopfield.settle import settle
from supsup_runtime.hopfield.store import to_pattern

LOADS = (0.05, 0.1, 0.138, 0.17, 0.2, 0.256, 0.3, 0.35, 0.4, 0.5)
NEAR = 0.02
FLIPPED = (0.0, 0.1)
PROBES = 50
"""Largest sample per load, spread evenly from old to new patterns."""
SEED = 0
"""Seed of random patterns and of flipped bits."""

Patterns = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity(Experiment):
    """Recovery of random patterns, and of those of a bank ``trained``, if any.

    Attributes:
        sizes: Numbers of units.
        densities: Fractions of ones in random patterns.
    """

    sizes: tuple[int, ...] = (2048, 256)
    densities: tuple[float, ...] = (0.5,)
    document: ClassVar[str] = "HOPFIELD.md"

    def setting(self) -> dict[str, Any]:
        """Return banks, sizes and densities."""
        banks = {key: asdict(bank) for key, bank in self.banks.items()}
        return {"banks": banks, "densities": self.densities, "sizes": self.sizes}

    def tiny(self) -> Capacity:
        """Use few units and a small bank."""
        banks = {key: tiny_bank(bank) for key, bank in self.banks.items()}
        return replace(self, banks=banks, sizes=(64, 32))

    def measure(self, run: Run) -> list[Line]:
        """Return a row per source, size, rule, load and share of flips."""
        banks = {key: run.bank(key, wanted) for key, wanted in self.banks.items()}
        rows = []
        for size, rule in product(self.sizes, RULES):
            for source, patterns in self._patterns(banks, size).items():
                sys.stderr.write(f"{source}, {size} units, {rule}\n")
                make = partial(_series, source, patterns, rule)
                rows += run.store.measured(f"{size} units, {rule}", source, make)["rows"]
        return rows

    def _patterns(self, banks: Mapping[str, MaskBank], size: int) -> dict[str, Patterns]:
        count = max(1, round(LOADS[-1] * size))
        found = {
            f"random, {density:.0%} ones": random_patterns(size, count, density)
            for density in self.densities
        }
        return found | {key: bank_patterns(bank, size, count) for key, bank in banks.items()}

    def tables(self, rows: Sequence[Line]) -> list[Table]:
        """Return a table per size."""
        return [_table(size, [r for r in rows if r["size"] == size]) for size in self.sizes]

    def plot(self, rows: Sequence[Line], file: Path) -> str:
        """Draw recovery within 2 % by load, a panel per source and size."""
        sources = list(dict.fromkeys(row["source"] for row in rows))
        sizes = sorted(self.sizes)

        def draw(grid: Any) -> None:  # noqa: ANN401 - matplotlib's
            for source, line in zip(sources, grid, strict=True):
                for size, axes in zip(sizes, line, strict=True):
                    own = [row for row in rows if (row["source"], row["size"]) == (source, size)]
                    _panel(axes, own, size)
                    axes.set_title(f"{source}, {size} units", fontsize="medium")
            first = grid[0][0]
            handles, labels = first.get_legend_handles_labels()
            place = {"loc": "outside lower center", "ncols": 2, "fontsize": "small"}
            first.figure.legend(handles, labels, **place)

        shape = {"nrows": len(sources), "ncols": len(sizes), "squeeze": False, "sharey": True}
        return picture(file, draw, figsize=(5 * len(sizes), 3.6 * len(sources)), **shape)


def random_patterns(size: int, count: int, density: float = 0.5) -> Patterns:
    """Return random signs, `density` of them 1: ``float32 (count, size)``."""
    rng = np.random.default_rng([SEED, size])
    return to_pattern(rng.random((count, size)) < density).reshape(count, size)


def bank_patterns(bank: MaskBank, size: int, count: int) -> Patterns:
    """Return runs of `size` elements of a bank's masks: ``float32 (at most count, size)``.

    Raises:
        InputError: If no masked parameter has that many elements.
    """
    taken = list(islice(_runs(bank, size), count))
    if not taken:
        raise InputError(f"{bank.path}: no masked parameter of a task has {size} elements")
    return np.stack(taken)


def _runs(bank: MaskBank, size: int) -> Iterator[Patterns]:
    tasks = list(bank)
    for parameter in bank.network.parameters:
        masks = [unpack_mask(task.masks[parameter.name], (parameter.size,)) for task in tasks]
        for start in range(0, parameter.size - size + 1, size):
            yield from (to_pattern(mask[start : start + size]) for mask in masks)


def loads(size: int, available: int) -> list[int]:
    """Return numbers of patterns: `LOADS` times `size`, at most `available`."""
    counts = {max(1, round(load * size)) for load in LOADS}
    return sorted(count for count in counts if count <= available)


def _series(source: str, patterns: Patterns, rule: str) -> Line:
    counts = loads(patterns.shape[1], len(patterns))
    return {"rows": [{**row, "source": source} for row in measure(patterns, rule, counts)]}


def measure(patterns: Patterns, rule: str, counts: Sequence[int]) -> Iterator[Line]:
    """Encode patterns; at each of `counts`, recover a sample and yield a row per share of flips.

    Both count fixed points only: ``exact`` is the pattern, ``near`` within 2 % of its bits.

    Args:
        patterns: ``float32 (patterns, d)`` of -1 and 1.
        rule: ``hebb`` or ``storkey``.
        counts: Rising numbers of patterns.
    """
    size = patterns.shape[1]
    matrix = HopfieldMatrix(size, rule=rule)
    rng = np.random.default_rng(SEED)
    done = 0
    for count in counts:
        for pattern in patterns[done:count]:
            matrix.add(pattern)
        done = count
        asked = patterns[np.unique(np.linspace(0, count - 1, min(PROBES, count)).astype(int))]
        common = {
            "bit_error": float(np.mean([matrix.bit_error(z) for z in asked])),
            "expected": expected_bit_error(size, count, rule),
            "load": count / size,
            "patterns": count,
            "probes": len(asked),
            "rule": rule,
            "size": size,
        }
        yield from (common | _recovered(matrix, asked, share, rng) for share in FLIPPED)


def _recovered(
    matrix: HopfieldMatrix, probes: Patterns, share: float, rng: np.random.Generator
) -> Line:
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


def _table(size: int, rows: Sequence[Line]) -> Table:
    """Make a row per load, a column per rule and source, and one-step errors."""
    series = list(dict.fromkeys((row["rule"], row["source"]) for row in rows))
    own = {key: [row for row in rows if (row["rule"], row["source"]) == key] for key in series}
    first = {rule: own[rule, rows[0]["source"]][:: len(FLIPPED)] for rule in RULES}
    columns = {
        "patterns (load)": [f"{row['patterns']} ({row['load']:.3f})" for row in first[RULES[0]]]
    }
    for (rule, source), found in own.items():
        cells = [f"{100 * row['exact']:.0f}/{100 * row['near']:.0f}" for row in found]
        pairs = zip(*(cells[n :: len(FLIPPED)] for n in range(len(FLIPPED))), strict=True)
        columns[f"{rule}, {source}"] = ["; ".join(dict.fromkeys(pair)) for pair in pairs]
    for rule in RULES:
        columns[f"one step: {rule}, {rows[0]['source']}"] = [
            f"{100 * row['bit_error']:.3f}/{100 * row['expected']:.3f}" for row in first[rule]
        ]
    return compact(f"{size} units", columns, *columns)


def _panel(axes: Any, rows: Sequence[Line], size: int) -> None:  # noqa: ANN401 - matplotlib's
    for color, rule in zip(("tab:blue", "tab:orange"), RULES, strict=True):
        for style, share in zip(("-", "--"), FLIPPED, strict=True):
            own = [row for row in rows if (row["rule"], row["flipped"]) == (rule, share)]
            x, y = ([row[key] for row in own] for key in ("load", "near"))
            label = f"{rule}, {share:.0%} of the bits flipped"
            axes.plot(x, y, style, color=color, marker=".", label=label)
        line = capacity(size, rule) / size
        axes.axvline(line, color=color, linestyle=":", label=f"{rule}, theory")
    within = "recovered within 2 % of bits"
    axes.set(xlabel="patterns per unit", ylabel=within, ylim=(-0.03, 1.03))
    axes.grid(visible=True, alpha=0.3)
