from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import made_up
from supsup_runtime.evaluation.report import claim_report, write_report
from supsup_runtime.evaluation.report.charts import percent, ticks
from supsup_runtime.evaluation.report.markup import Markup, tag
from supsup_runtime.evaluation.report.page import page

LABELS = ["cat", "dog"]
HOSTILE = "</style><script>alert(1)</script>\"'><img src=http://x.example/y onerror=alert(2)>&amp;"


class Read(HTMLParser):
    """Elements with their attributes, and all text; every element must end in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in {"meta", "img", "br"}:
            self._open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_is_escaped_and_markup_is_not() -> None:
    inside = (Markup("<b>x</b>"), "<&\"'>", 0.5, 3)
    assert tag("p", *inside, class_='a"b', aria_label=1.0) == (
        '<p class="a&quot;b" aria-label="1"><b>x</b>&lt;&amp;&quot;&#x27;&gt;0.53</p>'
    )
    assert tag("img", src="x") == '<img src="x">'


def test_names_and_labels_from_files_are_text() -> None:
    result = made_up([HOSTILE, "b\u202ex", "c\ud800\x00"], [HOSTILE, "dog"], lost=2)
    plain = made_up(["a", "b", "c"], ["cat", "dog"], lost=2)
    result |= {"model": HOSTILE, "data": HOSTILE}
    result["pictures"][0]["name"] = HOSTILE
    read, want = Read(page(result)), Read(page(plain))
    assert [name for name, _ in read.elements] == [name for name, _ in want.elements]
    assert [sorted(given) for _, given in read.elements] == [
        sorted(given) for _, given in want.elements
    ]
    assert "script" not in {name for name, _ in read.elements}
    assert HOSTILE in "".join(read.texts)


def test_what_a_calibration_says_of_rejecting_is_shown() -> None:
    result = made_up(["a", "b"], LABELS, lost=0)
    shown = " ".join(Read(page(result)).texts)
    assert "AUROC, each task left out in turn 0.987" in shown
    result["refusal"] |= {"auroc": None, "accepted": None}  # one task, no further images
    shown = " ".join(Read(page(result)).texts)
    assert "AUROC" not in shown
    assert "accepted by the threshold" in shown
    assert "Not measured: run supsup-calibrate" in page(result | {"refusal": None})


ANY = st.text(st.characters(exclude_categories=[]))
MARKUP = st.sampled_from(["<script>", "</title>", "</style>", "-->", '"', "'", "&", "]]>", "\x00"])


@given(
    names=st.lists(st.one_of(ANY, MARKUP), min_size=3, max_size=3, unique=True),
    labels=st.lists(st.one_of(ANY, MARKUP), min_size=2, max_size=2, unique=True),
)
def test_any_names_and_labels_are_text(names: list[str], labels: list[str]) -> None:
    result = made_up(names, labels, lost=2) | {"model": names[0], "data": labels[0]}
    read, want = Read(page(result)), Read(page(made_up(["a", "b", "c"], LABELS, lost=2)))
    assert [(name, sorted(own)) for name, own in read.elements] == [
        (name, sorted(own)) for name, own in want.elements
    ]


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, made_up(["a", "b"], LABELS, lost=1))
    text = path.read_text()
    assert re.findall(r"https?:|url\(|@import|<script|<link", text) == []
    read = Read(text)
    sources = {given["src"] or "" for name, given in read.elements if name == "img"}
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any(name.startswith("on") for _, given in read.elements for name in given)
    claim_report(path, force=True)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".report.html.0123456789abcdef.part"
    left.write_text("<!doctype")
    write_report(tmp_path / "report.html", made_up(["a", "b"], LABELS))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_figures_of_a_result_are_on_the_page() -> None:
    markup = page(made_up(["a", "b", "c"], LABELS, lost=2))
    assert 'title="a as b: 50.0\u202f%"' in markup  # the most confused pair
    text = "".join(Read(markup).texts)
    for said in (
        "out.onnx",
        "3 tasks of the made-up stream; task inferred by verified from one image",
        "90.0\u202f%",
        "guessing 33.3\u202f%",
        "8.95\u202fMBas float32 275\u202fMB",
        "right: 60 images",
        "wrong: 20 images",
        "75\u202f%as b",
        "34.4\u202fkB",
    ):
        assert said in text, said
    assert "Warnings" not in text


def test_one_task() -> None:
    text = "".join(Read(page(made_up(["only"], ["one class"]))).texts)
    assert "1 task of the made-up stream" in text
    assert "None: the task of every image is right." in text


def test_without_inference_curves_pictures_or_margins() -> None:
    result = made_up(["a", "b"], LABELS)
    nothing = {"inferred": None, "unknown": None, "unknown_ms": None, "shared": None}
    result |= {**nothing, "curves": [], "pictures": [], "batch": 16}
    for row in result["tasks"]:
        row |= {**nothing, "inferred_as": {}, "images": 0, "margins": {"right": [], "wrong": []}}
        row["calibration"]["unknown"] = [[0, 0, 0.0]] * 10
    text = "".join(Read(page(result)).texts)
    for said in ("Not measured.", "None to show.", "Not shown: give --bank", "batches of 16"):
        assert said in text, said
    assert "Margin of the task" not in text


def test_many_tasks_stay_readable() -> None:
    names = [f"task-{k:04}" for k in range(250)]
    result = made_up(names, [str(k) for k in range(10)], lost=100)
    text = page(result)
    assert len(text) < 600_000
    read = Read(text)
    said = "".join(read.texts)
    for part in (
        "task-0000task-000150.0\u202f%",
        "12 of 250 tasks, with the lowest",
        "All 250 tasks",
        "Of the tasks",
    ):
        assert part in said, part
    lines = [given for name, given in read.elements if given.get("class") == "thin"]
    assert len(lines) == 50  # every fifth


def test_many_classes_are_listed() -> None:
    text = page(made_up(["a", "b"], [f"class {k}" for k in range(13)]))
    assert "a: class 0class 111.1\u202f%" in "".join(Read(text).texts)
    assert 'class="map"' not in text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "-"),
        (0.0, "0.0\u202f%"),
        (0.0004, "<0.1\u202f%"),
        (0.937, "93.7\u202f%"),
        (0.9999, ">99.9\u202f%"),
        (1.0, "100.0\u202f%"),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 300, [0, 100, 200, 300]),
        (0.9123, 0.9127, [0.9123, 0.9124, 0.9125, 0.9126, 0.9127]),
        (-0.05, 0.05, [-0.04, -0.02, 0, 0.02, 0.04]),
    ],
)
def test_ticks_are_round(low: float, high: float, want: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(want)
