"""Tables of recoveries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from tools.reproduction.store import Line
from tools.reproduction.tables import Table, compact, once

LEAST_ACCURACY = 0.97
MOST_STEPS = 30
MOST_OFF = 0.02


def right(line: Line) -> bool:
    """Return whether verdict and fingerprints name the stream's own mask."""
    return bool(line["verdict"] == "stored" and line["found"] == line["task"] and line["same"])


def bars(lines: Sequence[Line], way: str) -> Table:
    """Return the bars for one way, with its results."""
    own = _by_way(lines, way)
    good = [line for line in own if right(line)]
    converged = [line for line in good if line["converged_after"] is not None]
    in_time = [line for line in converged if line["converged_after"] < MOST_STEPS]
    off = max(line["off"] for line in own)
    left_out = [line for line in lines if line["left_out"] == line["task"]]
    unknown = [line for line in left_out if line["verdict"] == "not-converged"]
    batch, running = (fmean(line[key] for line in own) for key in ("batch", "running"))
    least, most = f"at least {LEAST_ACCURACY:.1%}", f"at most {MOST_OFF:.0%}"
    asked = [
        ("mean accuracy, batches of 64", least, f"{batch:.2%}", batch >= LEAST_ACCURACY),
        ("mean accuracy, single images", least, f"{running:.2%}", running >= LEAST_ACCURACY),
        ("right mask, by fingerprints", *_all(good, own)),
        (f"converged in fewer than {MOST_STEPS} steps", *_all(in_time, own)),
        ("bits that differ from the learned mask", most, f"{off:.2%}", off <= MOST_OFF),
        ("unknown streams not converged", *_all(unknown, left_out)),
    ]
    cells = [
        [f"{bar}: {limit}", found + ("" if met else ", NOT met")]
        for bar, limit, found, met in asked
    ]
    title = "Bars, all met" if all(met for *_, met in asked) else "Bars, not all met"
    return Table(title=title, header=["bar", "result"], rows=cells)


def _all(those: Sequence[Line], lines: Sequence[Line]) -> tuple[str, str, bool]:
    return "all", f"{len(those)}/{len(lines)}", len(those) == len(lines)


def _by_way(lines: Iterable[Line], way: str) -> list[Line]:
    """Return recoveries by one way, with all tasks stored."""
    return [line for line in lines if line["left_out"] is None and line["way"] == way]


def _group(lines: Iterable[Line], by: Callable[[Line], Any]) -> dict[Any, list[Line]]:
    found: dict[Any, list[Line]] = {}
    for line in lines:
        found.setdefault(by(line), []).append(line)
    return found


def tables(lines: Sequence[Line], ways: Sequence[str]) -> list[Table]:
    """Return tables by way, by seed and task (first way), and with a task left out."""
    return [_way_table(lines, ways), _task_table(lines, ways[0]), _left_out_table(lines)]


def _way_table(lines: Sequence[Line], ways: Sequence[str]) -> Table:
    header = ["way", "seeds", "orders", "recovered", "steps", "single images", "ms per step"]
    rows = []
    for way in ways:
        own = _by_way(lines, way)
        step = sum(line["seconds"] for line in own) / sum(line["steps"] for line in own)
        seeds = ", ".join(str(seed) for seed in sorted({line["seed"] for line in own}))
        orders = str(len({line["order"] for line in own}))
        made = [way, seeds, orders, _verdicts(own), _converged(own), _mean(own, "running")]
        rows.append([*made, f"{1000 * step:.1f}"])
    return Table(title="Ways to recover, same settings", header=header, rows=rows)


def _task_table(lines: Sequence[Line], way: str) -> Table:
    own = _by_way(lines, way)
    header = ["seed", "task", "recovered", "steps", "bits to go", "bits off"]
    header += ["single images", "batches of 64", "learned mask", "entropy ratio"]
    groups = _group(own, lambda line: (str(line["seed"]), line["task"]))
    groups["all", ""] = own
    rows = [
        [
            seed,
            task,
            _verdicts(group),
            _converged(group),
            *(_percent(max(line[key] for line in group)) for key in ("distance", "off")),
            *(_mean(group, key) for key in ("running", "batch", "own")),
            _ratios(group),
        ]
        for (seed, task), group in groups.items()
    ]
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    columns["seed"] = once(columns["seed"])
    return compact(f"Each task, {way}", columns, "bits off")


def _left_out_table(lines: Sequence[Line]) -> Table:
    header = ["task left out", "not converged", "entropy ratio", "others recovered"]
    left_out = [line for line in lines if line["left_out"] is not None]
    groups = _group(left_out, lambda line: line["left_out"])
    groups["all"] = left_out
    rows = []
    for name, group in groups.items():
        its = [line for line in group if line["task"] == line["left_out"]]
        others = [line for line in group if line["task"] != line["left_out"]]
        unknown = [line for line in its if line["verdict"] == "not-converged"]
        rows.append([name, _count(unknown, its), _ratios(its), _verdicts(others)])
    return Table(title="One task left out of the store", header=header, rows=rows)


def _verdicts(lines: Sequence[Line]) -> str:
    return _count([line for line in lines if right(line)], lines)


def _count(those: Sequence[Line], lines: Sequence[Line]) -> str:
    """Count the lines among those, and the verdicts on others."""
    others = Counter(
        f"{line['verdict']} {line['found'] or ''}".strip() for line in lines if line not in those
    )
    told = [f"{count} {verdict}" for verdict, count in sorted(others.items())]
    return ", ".join([f"{len(those)}/{len(lines)}", *told])


def _converged(lines: Sequence[Line]) -> str:
    """Return fewest and most steps, and the most taken if more."""
    after = [line["converged_after"] for line in lines]
    steps = max(line["steps"] for line in lines)
    found = sorted(value for value in after if value is not None)
    never = f", {after.count(None)} never" if None in after else ""
    if not found:
        return f"never, of {steps}"
    return _span(found) + (f" of {steps}" if found[-1] < steps else "") + never


def _ratios(lines: Sequence[Line]) -> str:
    """Return the range of entropy over expected entropy."""
    found = [(line["entropy"], line["expected_entropy"]) for line in lines]
    ratios = sorted(h / expected for h, expected in found if h is not None and expected)
    return _span([f"{ratio:.2f}" for ratio in ratios]) if ratios else "-"


def _span(values: Sequence[object]) -> str:
    first, last = values[0], values[-1]
    return str(first) if first == last else f"{first}-{last}"


def _mean(lines: Sequence[Line], key: str) -> str:
    return _percent(fmean(line[key] for line in lines))


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"
