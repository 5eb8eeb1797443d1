"""How many patterns a Hopfield store gives back.

Patterns are encoded one after the other; at each load a sample of them is asked for again, from the
pattern itself and from one with some bits flipped. Trained patterns are runs of as many elements of
a bank's masks as there are units, first the first run of each task, then the second of each.
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
from tools.reproduction.tables import Table

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
"""Patterns asked for at a load, at most; evenly over old and new ones."""
SEED = 0
"""Of random patterns, and of the bits that are flipped."""

Patterns = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity(Experiment):
    """Random patterns, and those of a bank's masks where it has a bank ``trained``.

    Attributes:
        sizes: Units.
        densities: Shares of ones in random patterns.
    """

    sizes: tuple[int, ...] = (2048, 256)
    densities: tuple[float, ...] = (0.5,)
    document: ClassVar[str] = "HOPFIELD.md"

    def setting(self) -> dict[str, Any]:
        """Banks, sizes and densities."""
        banks = {key: asdict(bank) for key, bank in self.banks.items()}
        return {"banks": banks, "densities": self.densities, "sizes": self.sizes}

    def tiny(self) -> Capacity:
        """Few units, and a small bank."""
        banks = {key: tiny_bank(bank) for key, bank in self.banks.items()}
        return replace(self, banks=banks, sizes=(64, 32))

    def measure(self, run: Run) -> list[Line]:
        """A row a source, size, rule, load and share of flipped bits."""
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
        """One a size; percent that come back exactly and within 2 %, then with flipped bits."""
        return [_table(size, [r for r in rows if r["size"] == size]) for size in self.sizes]

    def plot(self, rows: Sequence[Line], file: Path) -> str:
        """A panel a source and size: shares within 2 % over the load, with the theory's lines."""
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
    """Random signs, of which a share of `density` is 1: ``float32 (count, size)``."""
    rng = np.random.default_rng([SEED, size])
    return to_pattern(rng.random((count, size)) < density).reshape(count, size)


def bank_patterns(bank: MaskBank, size: int, count: int) -> Patterns:
    """Runs of `size` elements of a bank's masks: ``float32 (at most count, size)``.

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
    """Numbers of patterns to look at, rising: `LOADS` times the units, as far as there are any."""
    counts = {max(1, round(load * size)) for load in LOADS}
    return sorted(count for count in counts if count <= available)


def _series(source: str, patterns: Patterns, rule: str) -> Line:
    counts = loads(patterns.shape[1], len(patterns))
    return {"rows": [{**row, "source": source} for row in measure(patterns, rule, counts)]}


def measure(patterns: Patterns, rule: str, counts: Sequence[int]) -> Iterator[Line]:
    """Encode, and at each of `counts` ask a sample of the patterns: a row a share of flipped bits.

    A pattern counts as exact where the dynamics end in it, as near where they end within 2 % of
    its bits; both only where they end in a fixed point.

    Args:
        patterns: ``float32 (patterns, d)`` of -1 and 1.
        rule: ``hebb`` or ``storkey``.
        counts: Numbers of patterns, rising.
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
    """A line a load, a column a rule and source; then one step's errors, of the first source."""
    series = list(dict.fromkeys((row["rule"], row["source"]) for row in rows))
    own = {key: [row for row in rows if (row["rule"], row["source"]) == key] for key in series}
    first = {rule: own[rule, rows[0]["source"]][:: len(FLIPPED)] for rule in RULES}
    header = ["patterns (load)", *(f"{rule}, {source}" for rule, source in series)]
    for rule in RULES:
        header += [f"one step: {rule}, {rows[0]['source']}", "theory"]
    cells = []
    for index, line in enumerate(first[RULES[0]]):
        made = [f"{line['patterns']} ({line['load']:.3f})"]
        for found in own.values():
            pair = found[len(FLIPPED) * index : len(FLIPPED) * (index + 1)]
            shares = [(100 * row["exact"], 100 * row["near"]) for row in pair]
            made.append("; ".join(f"{exact:.0f}, {near:.0f}" for exact, near in shares))
        for rule in RULES:
            errors = (first[rule][index][key] for key in ("bit_error", "expected"))
            made += [f"{100 * error:.3f} %" for error in errors]
        cells.append(made)
    return Table(title=f"{size} units", header=header, rows=cells)


def _panel(axes: Any, rows: Sequence[Line], size: int) -> None:  # noqa: ANN401 - matplotlib's
    for color, rule in zip(("tab:blue", "tab:orange"), RULES, strict=True):
        for style, share in zip(("-", "--"), FLIPPED, strict=True):
            own = [row for row in rows if (row["rule"], row["flipped"]) == (rule, share)]
            x, y = ([row[key] for row in own] for key in ("load", "near"))
            label = f"{rule}, {share:.0%} of the bits flipped"
            axes.plot(x, y, style, color=color, marker=".", label=label)
        line = capacity(size, rule) / size
        axes.axvline(line, color=color, linestyle=":", label=f"{rule}, theory")
    within = "given back within 2 % of the bits"
    axes.set(xlabel="patterns a unit", ylabel=within, ylim=(-0.03, 1.03))
    axes.grid(visible=True, alpha=0.3)
