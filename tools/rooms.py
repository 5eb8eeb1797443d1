"""Count rooms, imports between them and floors of each package, and draw them.

Rooms are the files and folders one level below a package, except `__init__`. A room is one floor
above the highest room that it imports. `python tools/rooms.py --draw docs/rooms.svg` draws the
picture of docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("supsup_train", "supsup_export", "supsup_runtime")
"""In the order that data flows; the folder of ``supsup_train`` is ``train``."""
_FLOW = ("tasks of data", "mask bank", "model", "prediction")
"""Labels of the arrows into, between and out of the packages."""

_DOES = ("learn masks", "make a graph of a bank", "read banks, run models")
_BOX, _GAP, _FLOOR, _MARGIN, _TOP, _ARROW = (112, 26), 10, 58, 16, 74, 104
_STYLE = """
text { font: 13px sans-serif; text-anchor: middle; fill: #1a1a1a }
.title { font-weight: bold; font-size: 15px }
.panel { fill: #f4f6f8; stroke: #c3ccd5 } .room { fill: #ffffff; stroke: #4a6fa5 }
.import { stroke: #b4bcc6; stroke-width: 1.2 } .flow { stroke: #c4581b; stroke-width: 2.5 }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """The rooms of a package.

    Attributes:
        package: Its name.
        floors: Rooms by floor, ground floor first.
        imports: Pairs of rooms; the first imports the second.
    """

    package: str
    floors: tuple[tuple[str, ...], ...]
    imports: frozenset[tuple[str, str]]

    def drawn(self) -> list[tuple[str, str]]:
        """Return the imports that no others imply, sorted."""
        return sorted(
            (upper, lower)
            for upper, lower in self.imports
            if not any(
                (upper, between) in self.imports and self._reaches(between, lower)
                for between in {room for pair in self.imports for room in pair} - {upper, lower}
            )
        )

    def _reaches(self, upper: str, lower: str) -> bool:
        below = {room for importer, room in self.imports if importer == upper}
        return lower in below or any(self._reaches(room, lower) for room in below)


def house_of(package: str) -> House:
    """Read the imports of a package.

    Raises:
        ValueError: Rooms import each other.
    """
    graph = grimp.build_graph(package, cache_dir=None)
    below: dict[str, set[str]] = {
        room.rpartition(".")[2]: set() for room in graph.find_children(package)
    }
    for module in graph.modules - {package}:
        room = module.split(".")[1]
        imported = graph.find_modules_directly_imported_by(module) - {package}
        below[room] |= {other.split(".")[1] for other in imported} - {room}
    floor_of: dict[str, int] = {}
    try:
        for room in TopologicalSorter(below).static_order():
            floor_of[room] = 1 + max((floor_of[other] for other in below[room]), default=-1)
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise ValueError(f"{package}: rooms import each other: {circle}") from error
    floors = [
        sorted(r for r in floor_of if floor_of[r] == f) for f in range(1 + max(floor_of.values()))
    ]
    return House(
        package=package,
        floors=tuple(map(tuple, floors)),
        imports=frozenset((upper, lower) for upper, rooms in below.items() for lower in rooms),
    )


def draw(houses: list[House]) -> str:
    """Return an SVG of the packages side by side."""
    height = _TOP + _FLOOR * max(len(house.floors) for house in houses) + _MARGIN
    shapes, x = [], float(_MARGIN)
    for house, comes_in, does in zip(houses, _FLOW, _DOES, strict=False):
        shapes += _flow(x, comes_in)
        x += _ARROW
        width = max(2, *map(len, house.floors)) * (_BOX[0] + _GAP) + _GAP
        size = f'width="{width}" height="{height - 2 * _MARGIN}"'
        shapes += [
            f'<rect class="panel" x="{x:g}" y="{_MARGIN}" {size} rx="8"/>',
            f'<text class="title" x="{x + width / 2:g}" y="{_MARGIN + 24}">{house.package}</text>',
            f'<text x="{x + width / 2:g}" y="{_MARGIN + 44}">{does}</text>',
            *_rooms(house, x, width, height),
        ]
        x += width
    shapes += _flow(x, _FLOW[-1])
    x += _ARROW
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x + _MARGIN:g} {height}">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *shapes, "</svg>", ""])


def _flow(x: float, label: str) -> list[str]:
    y, end = _MARGIN + 40, x + _ARROW - 8
    return [
        f'<text x="{x + _ARROW / 2 - 4:g}" y="{y - 10}">{escape(label)}</text>',
        f'<path class="flow" fill="none" d="M{x + 4:g} {y} H{end:g} m-9 -6 l9 6 l-9 6"/>',
    ]


def _rooms(house: House, x: float, width: float, height: float) -> list[str]:
    place: dict[str, tuple[float, float]] = {}
    for floor, rooms in enumerate(house.floors):
        left = x + (width - len(rooms) * (_BOX[0] + _GAP) + _GAP) / 2
        for number, room in enumerate(rooms):
            top = height - 2 * _MARGIN - _FLOOR * (floor + 1) + (_FLOOR - _BOX[1])
            place[room] = (left + number * (_BOX[0] + _GAP), top)
    half = _BOX[0] / 2
    lines = [
        f'<path class="import" fill="none" d="M{_way(place[upper], place[lower], place)}"/>'
        for upper, lower in house.drawn()
    ]
    boxes = [
        f'<rect class="room" x="{left:g}" y="{top:g}" width="{_BOX[0]}" height="{_BOX[1]}" rx="4"/>'
        f'<text x="{left + half:g}" y="{top + 18:g}">{room}</text>'
        for room, (left, top) in sorted(place.items())
    ]
    return [*lines, *boxes]


def _way(
    upper: tuple[float, float], lower: tuple[float, float], place: dict[str, tuple[float, float]]
) -> str:
    """Return points of a line from box to box, around those between."""
    width, height = _BOX
    x, end = upper[0] + width / 2, lower[0] + width / 2
    points = [f"{x:g} {upper[1] + height:g}"]
    for top in sorted({y for _, y in place.values() if upper[1] < y < lower[1]}):
        lefts = sorted(left for left, y in place.values() if y == top)
        gaps = [left - _GAP / 2 for left in lefts] + [lefts[-1] + width + _GAP / 2]
        straight = x + (end - x) * (top - upper[1]) / (lower[1] - upper[1])
        if any(left - 4 < straight < left + width + 4 for left in lefts):
            straight = min(gaps, key=lambda gap: abs(gap - straight))
        points += [f"{straight:g} {top:g}", f"{straight:g} {top + height:g}"]
    return " L".join([*points, f"{end:g} {lower[1]:g}"])


def main() -> None:
    """Run the command."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--draw", type=Path, metavar="FILE", help="write the picture as SVG")
    arguments = made.parse_args()
    sys.path[:0] = [str(ROOT / name.removeprefix("supsup_")) for name in PACKAGES]
    houses = [house_of(package) for package in PACKAGES]
    if arguments.draw:
        arguments.draw.write_text(draw(houses))
    for house in houses:
        print(
            f"{house.package:14}  {sum(map(len, house.floors)):2} rooms  "
            f"{len(house.imports):3} imports  {len(house.floors):2} floors"
        )


if __name__ == "__main__":
    main()
