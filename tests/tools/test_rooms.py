"""Counts of rooms, imports and floors; the picture is up to date and the limits hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.rooms import PACKAGES, House, draw, house_of

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "rooms.svg"
MOST = {"supsup_train": (22, 7), "supsup_export": (19, 6), "supsup_runtime": (56, 8)}
"""At most so many imports between rooms, and floors."""


@pytest.fixture(scope="module")
def houses() -> list[House]:
    return [house_of(package) for package in PACKAGES]


def made(folder: Path, name: str, **modules: str) -> str:
    """Make a package of modules with the given texts."""
    for module, text in {"__init__": "", **modules}.items():
        file = folder / name / f"{module.replace('__in__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return name


def test_the_picture_is_of_the_house_as_it_is(houses: list[House]) -> None:
    assert draw(houses) == PICTURE.read_text(), "run: python tools/rooms.py --draw docs/rooms.svg"


def test_the_house_keeps_its_budget(houses: list[House]) -> None:
    for house in houses:
        imports, floors = MOST[house.package]
        assert len(house.imports) <= imports
        assert len(house.floors) <= floors


def test_rooms_stand_above_what_they_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = made(
        tmp_path,
        "plain_house",
        roof__in____init__="",
        roof__in__tiles="from plain_house import wall\nfrom plain_house.ground import x",
        wall="def f():\n    import plain_house.ground",
        ground="x = 1",
        shed="",
    )
    house = house_of(package)
    assert house.floors == (("ground", "shed"), ("wall",), ("roof",))
    assert house.imports == {("roof", "wall"), ("roof", "ground"), ("wall", "ground")}
    assert house.drawn() == [("roof", "wall"), ("wall", "ground")]


def test_a_circle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = made(tmp_path, "round_house", a="import round_house.b", b="import round_house.a")
    with pytest.raises(ValueError, match=r"round_house: rooms import each other: \w -> \w"):
        house_of(package)
