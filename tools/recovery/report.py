"""From measurements to tables: by seed and task, by seed, by way, and with a task left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from tools.recovery.setting import Setting, ways

from supsup_runtime.console import to_table

__all__ = ["Table", "bars", "right", "tables", "to_markdown", "to_text"]

Line = dict[str, Any]
Table = tuple[str, list[str], list[list[str]]]
"""Title, header, rows."""

LEAST_ACCURACY = 0.97
MOST_STEPS = 30
MOST_OFF = 0.02


def right(line: Line) -> bool:
    """Whether a stream's own mask was recovered: the verdict says so, and fingerprints do."""
    found = line["recovered"]
    return bool(found["verdict"] == "stored" and found["task"] == line["task"] and line["same"])


def bars(lines: Sequence[Line], setting: Setting) -> list[Line]:
    """What is asked for of the setting's own way, what was found, and whether that meets it."""
    own = _by_way(lines, setting)
    late = [line for line in own if not (right(line) and _in_time(line))]
    wrong = [line for line in own if not right(line)]
    off = max(line["off"] for line in own)
    left_out = [line for line in lines if line["left_out"] == line["task"]]
    unknown = [line for line in left_out if line["recovered"]["verdict"] == "not-converged"]
    batch, running = (fmean(_seed_means(own, key).values()) for key in ("batch", "running"))
    least = f"at least {LEAST_ACCURACY:.1%}"
    asked = [
        ("mean accuracy, batches of 64", least, f"{batch:.2%}", batch >= LEAST_ACCURACY),
        ("mean accuracy, single images", least, f"{running:.2%}", running >= LEAST_ACCURACY),
        ("the right mask, by its fingerprints", "all", _of(own, wrong), not wrong),
        (f"converged to it in fewer than {MOST_STEPS} steps", "all", _of(own, late), not late),
        (
            "bits of the learned mask that differ, at most",
            f"{MOST_OFF:.0%}",
            f"{off:.2%}",
            off <= MOST_OFF,
        ),
        (
            "streams of a task left out of the store: not converged",
            "all",
            f"{len(unknown)} of {len(left_out)}",
            len(unknown) == len(left_out),
        ),
    ]
    return [
        {"what": what, "asked": limit, "found": found, "met": met}
        for what, limit, found, met in asked
    ]


def _in_time(line: Line) -> bool:
    after = line["recovered"]["converged_after"]
    return after is not None and after < MOST_STEPS


def _of(all_: Sequence[Line], without: Sequence[Line]) -> str:
    return f"{len(all_) - len(without)} of {len(all_)}"


def _by_way(lines: Iterable[Line], setting: Setting, number: int = 0) -> list[Line]:
    """Recoveries by one of the ways, with all tasks in the store."""
    name = ways(setting)[number].name
    return [line for line in lines if line["left_out"] is None and line["way"] == name]


def _seed_means(lines: Sequence[Line], key: str) -> dict[int, float]:
    """The mean of a number over tasks and orders, by seed."""
    return {seed: fmean(line[key] for line in own) for seed, own in _group(lines, _seed).items()}


def _group(lines: Iterable[Line], by: Callable[[Line], Any]) -> dict[Any, list[Line]]:
    found: dict[Any, list[Line]] = {}
    for line in lines:
        found.setdefault(by(line), []).append(line)
    return found


def _seed(line: Line) -> int:
    return int(line["seed"])


def tables(lines: Sequence[Line], setting: Setting) -> list[Table]:
    """All of them; the last says what was asked for, where that is judged."""
    made = [
        _task_table(lines, setting),
        _seed_table(lines, setting),
        _left_out_table(lines),
        _way_table(lines, setting),
    ]
    if setting.judged:
        header = ["asked for", "limit", "found", ""]
        found = [
            [bar["what"], bar["asked"], bar["found"], "met" if bar["met"] else "NOT met"]
            for bar in bars(lines, setting)
        ]
        made.append(("What was asked for, and what came of it", header, found))
    return made


def _task_table(lines: Sequence[Line], setting: Setting) -> Table:
    own = _by_way(lines, setting)
    count = len({line["order"] for line in own})
    orders = f"{count} orders of them" if count > 1 else "one order"
    title = f"From {ways(setting)[0].name}, within one pass over the test images, {orders}"
    header = ["seed", "task", "recovered", "converged after", "bits to go at the end, %"]
    header += ["off the learned mask, %", "accuracy, single images, %", "batches of 64, %"]
    header += ["own mask and statistics, %", "entropy / expected"]
    rows = [
        [
            str(seed),
            task,
            _verdicts(group),
            _converged(group),
            _percent(max(line["distance"] for line in group)),
            _percent(max(line["off"] for line in group)),
            *(_percent(fmean(line[key] for line in group)) for key in ("running", "batch", "own")),
            _ratios(group),
        ]
        for (seed, task), group in _group(own, lambda line: (line["seed"], line["task"])).items()
    ]
    return title, header, rows


def _verdicts(lines: Sequence[Line]) -> str:
    """How many are right, and what the others are."""
    wrong = Counter(
        f"{line['recovered']['verdict']} {line['recovered']['task'] or ''}".strip()
        for line in lines
        if not right(line)
    )
    others = [f"{count} {verdict}" for verdict, count in sorted(wrong.items())]
    return ", ".join([f"{len(lines) - wrong.total()} of {len(lines)}", *others])


def _converged(lines: Sequence[Line]) -> str:
    """Fewest to most steps, of how many."""
    after = [line["recovered"]["converged_after"] for line in lines]
    steps = max(line["recovered"]["steps"] for line in lines)
    found = sorted(value for value in after if value is not None)
    never = f", {after.count(None)} never" if None in after else ""
    if not found:
        return f"never, of {steps}"
    span = str(found[0]) if found[0] == found[-1] else f"{found[0]} to {found[-1]}"
    return f"{span} of {steps}{never}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _ratios(lines: Sequence[Line]) -> str:
    """Least to largest entropy, over what the store expects."""
    found = [
        (line["recovered"]["entropy"], line["recovered"]["expected_entropy"]) for line in lines
    ]
    ratios = sorted(h / expected for h, expected in found if h is not None and expected)
    if not ratios:
        return "-"
    low, high = f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}"
    return low if low == high else f"{low} to {high}"


def _seed_table(lines: Sequence[Line], setting: Setting) -> Table:
    own = _by_way(lines, setting)
    header = ["seed", "recovered", "accuracy, single images, %", "batches of 64, %"]
    header += ["own mask and statistics, %"]
    keys = ("running", "batch", "own")
    means = {key: _seed_means(own, key) for key in keys}
    rows = [
        [str(seed), _verdicts(group), *(_percent(means[key][seed]) for key in keys)]
        for seed, group in _group(own, _seed).items()
    ]
    rows.append(["mean", _verdicts(own), *_means(own, keys)])
    found = [line for line in own if right(line)]
    if found:
        rows.append(["mean, where recovered", _verdicts(found), *_means(found, keys)])
    return "Means over tasks and orders; ± is the deviation of seeds", header, rows


def _means(lines: Sequence[Line], keys: Sequence[str]) -> list[str]:
    """Means over seeds, in percent, with their deviation."""
    cells = []
    for key in keys:
        values = list(_seed_means(lines, key).values())
        spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
        cells.append(_percent(fmean(values)) + spread)
    return cells


def _left_out_table(lines: Sequence[Line]) -> Table:
    header = ["task left out", "its stream: not converged", "its entropy / expected"]
    header += ["the others: recovered"]
    rows = []
    left_out = [line for line in lines if line["left_out"] is not None]
    for name, group in [
        *_group(left_out, lambda line: line["left_out"]).items(),
        ("all", left_out),
    ]:
        its = [line for line in group if line["task"] == line["left_out"]]
        others = [line for line in group if line["task"] != line["left_out"]]
        rows.append([name, _unknown(its), _ratios(its), _verdicts(others)])
    return "One task left out of the store; all seeds and orders", header, rows


def _unknown(lines: Sequence[Line]) -> str:
    """How many have not converged, and what the others are taken for."""
    verdicts = Counter(
        f"{line['recovered']['verdict']} {line['recovered']['task'] or ''}".strip()
        for line in lines
    )
    count = verdicts.pop("not-converged", 0)
    others = [f"{number} {verdict}" for verdict, number in sorted(verdicts.items())]
    return ", ".join([f"{count} of {len(lines)}", *others])


def _way_table(lines: Sequence[Line], setting: Setting) -> Table:
    header = ["way", "seeds", "orders", "recovered", "converged after"]
    header += ["accuracy, single images, %", "ms a step"]
    rows = []
    for number, way in enumerate(ways(setting)):
        own = _by_way(lines, setting, number)
        seconds = sum(line["seconds"] for line in own)
        steps = sum(line["recovered"]["steps"] for line in own)
        rows.append(
            [
                way.name,
                ", ".join(str(seed) for seed in sorted({line["seed"] for line in own})),
                str(len({line["order"] for line in own})),
                _verdicts(own),
                _converged(own),
                _percent(fmean(line["running"] for line in own)),
                f"{1000 * seconds / steps:.1f}",
            ]
        )
    return "Ways to recover, with the same settings", header, rows


def to_text(made: Sequence[Table]) -> str:
    """Tables for a terminal."""
    return "\n\n".join(f"{title}\n{to_table(header, rows)}" for title, header, rows in made)


def to_markdown(made: Sequence[Table]) -> str:
    """Tables for the documentation."""
    return "\n\n".join(
        "\n".join([f"{title}:", "", _row(header), "|---" * len(header) + "|", *map(_row, rows)])
        for title, header, rows in made
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
