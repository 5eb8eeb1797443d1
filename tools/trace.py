"""The way of recoveries as a picture: `python tools/trace.py recovered.json --plot trace.svg`.

Each file holds what `supsup-hopfield recover recover.onnx x.npy --json` printed. Tables go to
stdout: a line a recovery, then a line a step. `--plot` draws distance, entropy and energy by step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supsup_runtime.console import run_command, to_table
from supsup_runtime.errors import InputError
from supsup_runtime.recovery.result import TOLERANCE

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the script's own folder is there already, `tools.pictures` is not
    sys.path.insert(0, str(ROOT))

TEXTS = ("verdict", "reason")
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A recovery, as its JSON tells it.

    Attributes:
        name: What tells it from others in a picture.
        verdict: As `Recovered` has it.
        converged_after: Steps after which the mask stayed near its end; None where it did not.
        entropy: H of each step's batch, in nats; T values.
        energy: Of each step's mask; T values.
        distance: Fraction of bits from the fixed point at the end, within ``[0, 1]``; T + 1 values.
        end: H of the last inputs through the mask.
        expected: What the stored task's own is; None where not known.
    """

    name: str
    verdict: str
    converged_after: int | None
    entropy: tuple[float, ...]
    energy: tuple[float, ...]
    distance: tuple[float, ...]
    end: float
    expected: float | None

    @property
    def label(self) -> str:
        """Name and verdict."""
        return self.verdict if self.name == self.verdict else f"{self.name}, {self.verdict}"


def read_ways(files: Sequence[Path]) -> list[Way]:
    """The recoveries of some files, each named after its task, or its file where two have that.

    Raises:
        InputError: If a file is missing or not what supsup-hopfield recover prints.
    """
    values = [(file, _json(file)) for file in files]
    names = [str(value.get("task") or value.get("verdict")) for _, value in values]
    if len(set(names)) < len(names):
        names = [f"{file.stem}: {name}" for (file, _), name in zip(values, names, strict=True)]
    return [
        to_way(value, name=name, place=str(file))
        for (file, value), name in zip(values, names, strict=True)
    ]


def _json(file: Path) -> dict[str, Any]:
    remedy = "give what supsup-hopfield recover MODEL x.npy --json prints"
    if not file.is_file():
        raise InputError(f"{file}: no such file; {remedy}")
    if file.stat().st_size > MAX_BYTES:
        raise InputError(f"{file}: must have at most {MAX_BYTES} bytes; {remedy}")
    try:
        value = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: must be JSON: {error}; {remedy}") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: must be a JSON object, got {type(value).__name__}; {remedy}")
    return value


def to_way(value: Mapping[str, Any], *, name: str, place: str) -> Way:
    """What a JSON object says of a recovery.

    Args:
        value: With verdict, reason, task, steps, converged_after, entropy, expected_entropy and
            trace.
        name: For `Way.name`.
        place: What messages call the object.

    Raises:
        InputError: If a field is missing, of another type, or of a length that does not fit.
    """
    for key in TEXTS:
        if not isinstance(_field(value, key, place), str):
            raise InputError(f"{place}: {key} must be text, got {value[key]!r:.80}")
    if value["verdict"] == "diverged":
        raise InputError(f"{place}: a recovery that diverged has no picture: {value['reason']}")
    task = _field(value, "task", place)
    if task is not None and not isinstance(task, str):
        raise InputError(f"{place}: task must be a name or null, got {task!r:.80}")
    steps = _whole(value, "steps", place)
    if not steps:
        raise InputError(f"{place}: steps must be at least 1, got {steps!r:.80}")
    converged = _whole(value, "converged_after", place)
    trace = _field(value, "trace", place)
    if not isinstance(trace, dict):
        raise InputError(f"{place}: trace must be an object, got {trace!r:.80}")
    distance = _series(trace, "distance", steps + 1, place)
    outside = [d for d in distance if not 0 <= d <= 1]
    if outside:
        raise InputError(f"{place}: trace.distance must be within [0, 1], got {outside[0]}")
    expected = _field(value, "expected_entropy", place)
    return Way(
        name=name,
        verdict=value["verdict"],
        converged_after=converged,
        entropy=_series(trace, "entropy", steps, place),
        energy=_series(trace, "energy", steps, place),
        distance=distance,
        end=_number(_field(value, "entropy", place), "entropy", place),
        expected=None if expected is None else _number(expected, "expected_entropy", place),
    )


def _field(value: Mapping[str, Any], key: str, place: str) -> object:
    if key not in value:
        raise InputError(
            f"{place}: must have the field {key!r}, got {sorted(map(str, value))!r:.200}; give "
            "what supsup-hopfield recover MODEL x.npy --json prints"
        )
    found: object = value[key]
    return found


def _whole(value: Mapping[str, Any], key: str, place: str) -> int | None:
    found = _field(value, key, place)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise InputError(f"{place}: {key} must be a whole number from 0 on, got {found!r:.80}")
    return found


def _number(found: object, key: str, place: str) -> float:
    if (
        isinstance(found, int | float)
        and not isinstance(found, bool)
        and abs(found) <= sys.float_info.max  # an int of any length is legal JSON, but no float
    ):
        return float(found)
    raise InputError(
        f"{place}: {key} must be a finite number, got {found!r:.80}; a recovery that "
        "diverged has no picture"
    )


def _series(trace: Mapping[str, Any], key: str, length: int, place: str) -> tuple[float, ...]:
    found, name = _field(trace, key, f"{place}: trace"), f"trace.{key}"
    if not isinstance(found, list) or len(found) != length:
        got = len(found) if isinstance(found, list) else repr(found)[:80]
        raise InputError(f"{place}: {name} must have {length} values, as steps says, got {got}")
    return tuple(_number(item, f"{name}[{index}]", place) for index, item in enumerate(found))


def tables(ways: Sequence[Way]) -> str:
    """A line a recovery; then a line a step of each, the last of which has taken all steps."""
    header = ["recovery", "verdict", "steps", "converged after", "entropy", "expected"]
    lines = [
        (
            way.name,
            way.verdict,
            len(way.entropy),
            "-" if way.converged_after is None else way.converged_after,
            f"{way.end:.4g}",
            "-" if way.expected is None else f"{way.expected:.4g}",
        )
        for way in ways
    ]
    steps = [
        (way.name, step, f"{100 * away:.2f}", *_at(way.entropy, step), *_at(way.energy, step))
        for way in ways
        for step, away in enumerate(way.distance)
    ]
    by_step = to_table(("recovery", "step", "distance, %", "entropy, nats", "energy"), steps)
    return f"{to_table(header, lines)}\n\n{by_step}"


def _at(values: Sequence[float], step: int) -> tuple[str]:
    return (f"{values[step]:.6g}" if step < len(values) else "-",)


def plot(ways: Sequence[Way], file: Path) -> str:
    """Draw three panels over the steps: distance, entropy with what was expected, energy.

    Returns:
        What was written, or that matplotlib is missing.
    """
    from tools.pictures import picture

    def draw(panels: Any) -> None:  # noqa: ANN401 - matplotlib's
        distance, entropy, energy = panels
        for number, way in enumerate(ways):
            look = {"color": f"C{number % 10}", "marker": ".", "markersize": 3}
            distance.plot([100 * d for d in way.distance], label=way.label, **look)
            entropy.plot(way.entropy, **look)
            energy.plot(way.energy, **look)
            if way.expected is not None:
                entropy.axhline(way.expected, color=look["color"], linestyle=":", alpha=0.6)
        distance.axhline(100 * TOLERANCE, color="grey", linestyle="--", linewidth=0.8)
        distance.set(ylabel="distance from the\nfixed point, % of bits")
        entropy.set(ylabel="entropy, nats\n(dotted: expected)", ylim=(0, None))
        energy.set(ylabel="energy", xlabel="step")
        for axes in panels:
            axes.grid(visible=True, alpha=0.3)
        figure = distance.figure
        figure.legend(loc="outside lower center", ncols=min(len(ways), 3), fontsize="small")

    return picture(file, draw, nrows=3, sharex=True, figsize=(6.4, 7.2))


def main() -> None:
    """Run the command."""
    run_command("trace", _run)


def _run() -> None:
    arguments = _parser().parse_args()
    ways = read_ways(arguments.files)
    print(tables(ways))
    if arguments.plot:
        print(plot(ways, arguments.plot), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="JSON of a recovery, a file each"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write an SVG or PNG")
    return parser


if __name__ == "__main__":
    main()
