"""The page of a report, section by section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supsup_runtime.evaluation.findings import answer_name
from supsup_runtime.evaluation.report import charts
from supsup_runtime.evaluation.report.charts import percent
from supsup_runtime.evaluation.report.markup import Markup, joined, tag
from supsup_runtime.files import write_whole

Result = Mapping[str, Any]
_BEGIN = "<!doctype html>"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LISTED = 40
"""Tasks up to which each has a line and a place in the map of confusions."""
_MAPPED = 30
_PAIRS = 12
_LOWEST = 10
_CARDS = 12
_CLASSES = 40


def write_report(path: Path, result: Result) -> None:
    """Write the report of an evaluation as one HTML file, whole or not at all.

    Args:
        path: File to write; an old one is replaced.
        result: What `evaluate` returns, with ``model`` and ``data`` (names), ``sizes``, ``curves``
            and ``pictures`` of `sources`.
    """
    write_whole(path, page(result).encode("utf-8", "replace"))


def is_report(path: Path) -> bool:
    """Return whether a file begins as a report does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_BEGIN)) == _BEGIN.encode()


def page(result: Result) -> str:
    """Return the page."""
    title = f"{result['model']}: supsup-eval"
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag("body", tag("main", _header(result), *_sections(result)))
    return f"{_BEGIN}\n{tag('html', head, body, lang='en')}\n"


def _sections(result: Result) -> Iterator[Markup]:
    rows = result["tasks"]
    if result["warnings"]:
        items = [tag("li", text[0].upper() + text[1:] + ".") for text in result["warnings"]]
        yield tag("section", tag("h2", "Warnings"), tag("ul", *items), class_="warnings")
    yield _section("Accuracy of each task", _accuracy(rows))
    if result["inferred"] is not None:
        yield _section("Tasks taken for others", _confusion(rows, result["confusion"]))
    if any("classes" in row for row in rows):
        yield _section("Classes taken for others", _classes(rows))
    if result["pictures"]:
        yield _section("Pictures that went wrong", _wrong(result["pictures"]))
    yield _section("Learning", _learning(result["curves"]))
    yield _section("Margins and confidence", _certainty(result))
    yield _section("Size and time", _costs(result))


def _section(title: str, *inside: object) -> Markup:
    return tag("section", tag("h2", title), *inside)


def _note(*text: object) -> Markup:
    return tag("p", *text, class_="note")


def _card(title: str, *inside: object) -> Markup:
    return tag("figure", tag("h3", title), *inside)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: int) -> Markup:
    """A table whose last `numbers` columns are numbers."""
    first = len(heads) - numbers

    def cells(kind: str, row: Sequence[object]) -> list[Markup]:
        return [tag(kind, cell, class_=_kind(cell, k >= first)) for k, cell in enumerate(row)]

    body = [tag("tr", *cells("td", row)) for row in rows]
    return tag("table", tag("thead", tag("tr", *cells("th", heads))), tag("tbody", *body))


def _kind(cell: object, number: bool) -> str:
    return "n" if number else "s" if isinstance(cell, Markup) else "t"


def _key(*kinds: tuple[str, str]) -> Markup:
    return tag(
        "p", *(tag("span", text, class_=f"key {kind}") for kind, text in kinds), class_="note"
    )


def _header(result: Result) -> Markup:
    rows = result["tasks"]
    batch = "one image" if result["batch"] == 1 else f"batches of {result['batch']} images"
    how = (
        f"task inferred by {result['method']} from {batch}"
        if result["inferred"] is not None
        else "tasks given"
    )
    line = f"{len(rows):,} task{'s' * (len(rows) > 1)} of {result['data']}; {how}"
    sizes, chance = result["sizes"], result["chance_inferred"]
    facts = [
        ("Label right, task known", "known", result["chance"]),
        ("Label and task right, task unknown", "unknown", result["chance"] * chance),
        ("Task right", "inferred", chance),
    ]
    if result["known"] is None:  # the tasks have no names
        facts = [("Label right, task unknown", "shared", result["chance"])]
    tiles = [
        _tile(name, percent(result[key]), f"guessing {percent(guess)}")
        for name, key, guess in facts
        if result[key] is not None
    ]
    separate = f"{_bytes(sizes['float_bytes'])} as float32 models"
    tiles.append(_tile("Model", _bytes(sizes["model_bytes"]), separate))
    return tag("header", tag("h1", result["model"]), _note(line), tag("dl", *tiles))


def _tile(name: str, value: str, beside: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value), tag("dd", beside, class_="note"))


def _accuracy(rows: Sequence[Result]) -> Markup:
    key = _key(
        ("known", "task known: label right"),
        ("unknown", "task unknown: label and task right"),
        ("chance", "always the most frequent class"),
    )
    if len(rows) <= _LISTED:
        return joined(key, _accuracies(rows))
    lowest = sorted(rows, key=lambda row: (row.get("known", 1), row.get("unknown") or 0))
    return joined(
        key,
        tag(
            "div",
            tag("figure", charts.ranked(rows)),
            _card(f"The {_LOWEST} lowest", _accuracies(lowest[:_LOWEST])),
            class_="cards",
        ),
        tag("details", tag("summary", f"All {len(rows):,} tasks"), _accuracies(rows)),
    )


def _accuracies(rows: Sequence[Result]) -> Markup:
    lines = [
        (
            row["task"],
            charts.strip(row["chance"], row.get("known", row["shared"]), row.get("unknown")),
            percent(row.get("known", row["shared"])),
            percent(row.get("unknown")),
            percent(row["inferred"]),
        )
        for row in rows
    ]
    return _table(("task", "0 to 100\u202f%", "known", "unknown", "task right"), lines, 3)


def _confusion(rows: Sequence[Result], pairs: Sequence[Result]) -> Markup:
    if not any("inferred_as" in row for row in rows):
        lines = [(row["task"], row["mask"], percent(row["inferred"])) for row in rows]
        return joined(
            _note("Each task's most used mask, and the share of images that used it."),
            _table(("task", "mask", "images"), lines[:_LISTED], 1),
        )
    if not pairs:
        return _note("None: the task of every image was inferred right.")
    chosen = _mapped(rows, pairs)
    names = [row["task"] for row in chosen]
    others = [row["inferred_as"] for row in chosen]
    counts = [[inferred.get(name, 0) for name in names] for inferred in others]
    table = [
        (pair["task"], pair["inferred"], f"{pair['images']:,}", percent(pair["share"]))
        for pair in pairs[:_PAIRS]
    ]
    note = "Rows: the images' task; columns: the task inferred; numbers: percent of the row."
    if len(chosen) < len(rows):
        note += f" The {len(chosen)} of {len(rows):,} tasks that are confused most."
    listed = _table(("task", "taken for", "images", "share"), table, 2)
    if len(names) > charts.NUMBERED:
        note += " The numbers at the sides count these tasks in the order of the table below."
        numbers = [(str(i), name) for i, name in enumerate(names, start=1)]
        order = tag(
            "details", tag("summary", "Numbers of the tasks"), _table(("", "task"), numbers, 0)
        )
        listed = joined(listed, order)
    label = f"Tasks taken for others: {len(names)} by {len(names)}"
    drawn = charts.heat_map(counts, names, names, label)
    return tag(
        "div", tag("figure", drawn, _note(note)), _card("Most confused", listed), class_="cards"
    )  # fmt: skip


def _mapped(rows: Sequence[Result], pairs: Sequence[Result]) -> Sequence[Result]:
    """The tasks in the map of confusions: all, or those of the most confused pairs."""
    if len(rows) <= _LISTED:
        return rows
    names: dict[str, None] = {}
    for pair in pairs:
        if len(names) < _MAPPED:
            names |= {pair["task"]: None, pair["inferred"]: None}
    return [row for row in rows if row["task"] in names]


def _classes(rows: Sequence[Result]) -> Markup:
    poor = [row for row in rows if "classes" in row and len(row["classes"][0]) <= _CLASSES]
    poor = sorted(poor, key=lambda row: row["known"])[:_CARDS]
    cards = []
    for row in poor:
        answers = [answer_name(row, k) for k in range(len(row["classes"][0]))]
        label = f"Classes of {row['task']} taken for others"
        drawn = charts.heat_map(row["classes"], row["labels"], answers, label)
        cards.append(_card(f"{row['task']}: {percent(row['known'])}", drawn))
    note = "Task known. Rows: the class; columns: the answer; numbers: percent of the row."
    if len(poor) < len(rows):
        note += f" The {len(poor)} of {len(rows):,} tasks with the lowest accuracy."
    return joined(_note(note), tag("div", *cards, class_="cards small"))


def _wrong(pictures: Sequence[Result]) -> Markup:
    tasks = dict.fromkeys(entry["task"] for entry in pictures)
    note = "At most five of each task: the class, then the answer and its probability."
    groups = (_pictures(task, pictures) for task in tasks)
    return joined(_note(note), tag("div", *groups, class_="cards"))


def _pictures(task: str, pictures: Sequence[Result]) -> Markup:
    figures = []
    for entry in (entry for entry in pictures if entry["task"] == task):
        sure = f"{100 * entry['confidence']:.0f}\u202f%"
        other = "" if entry["inferred"] is None else f" as {entry['inferred']}"
        alt = f"{entry['label']} answered as {entry['answer']}"
        caption = [tag("b", entry["label"]), f" → {entry['answer']}", tag("br"), sure, other]
        image = tag("img", src=entry["picture"], alt=alt, title=f"test image {entry['row']}")
        figures.append(tag("figure", image, tag("figcaption", *caption)))
    return tag("div", tag("h3", task), tag("div", *figures, class_="pictures"))


def _learning(curves: Sequence[Result]) -> Markup:
    if not curves:
        return _note("Not shown: give --bank or --log, with a log that has loss curves.")
    cards = [_card("Loss", charts.losses(curves), _key(("mean", "mean"), ("thin", "each task")))]
    both = [curve for curve in curves if {"accuracy", "train_accuracy"} <= set(curve)]
    if both:
        note = "A dot under the line is a task that does better on what it learned from."
        cards.append(_card("Training and held-out accuracy", charts.learned(both), _note(note)))
    return tag("div", *cards, class_="cards")


def _certainty(result: Result) -> Markup:
    margins, curves = result["margins"], result["calibration"]
    cards = []
    if margins["edges"]:
        right, wrong = (f"{kind}: {sum(margins[kind]):,} images" for kind in ("right", "wrong"))
        note = "Best task's score minus the second best. The last bar also has all beyond it. "
        note += "Each side is drawn to its own largest bar."
        key = _key(("right", right), ("wrong", wrong))
        cards.append(_card("Margin of the task", charts.histogram(margins), key, _note(note)))
    shown = {kind: spans for kind, spans in curves.items() if spans}
    if shown:
        note = "How often labels are right, by their probability. Dashed: as often as it says."
        key = _key(*((kind, f"task {kind}") for kind in shown))
        cards.append(_card("Confidence in the label", charts.reliability(shown), key, _note(note)))
    return tag("div", *cards, class_="cards")


def _costs(result: Result) -> Markup:
    sizes, rows = result["sizes"], result["tasks"]
    largest = max(sizes.values()) or 1
    names = {
        "model_bytes": "this model",
        "float_bytes": "a float32 model for each task",
        "task_bytes": "one more task",
    }
    lines = [
        (text, charts.bar(sizes[key] / largest), _bytes(sizes[key])) for key, text in names.items()
    ]
    times = []
    for key, text in (("known_ms", "one image, task known"), ("unknown_ms", "task inferred")):
        found = [row[key] for row in rows if row.get(key) is not None]
        if found:
            batch = f", batch of {result['batch']}" if key == "unknown_ms" else ""
            times.append(
                (text + batch, *(f"{each:.3f}" for each in (min(found), result[key], max(found))))
            )
    heads = ("medians of the tasks, in ms", "least", "mean", "most")
    cards = [_card("Size", _table(("", "", "bytes"), lines, 1))]
    cards += [_card("Time", _table(heads, times, 3))] if times else []
    return tag("div", *cards, class_="cards")


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g}\u202f{unit}"
    return f"{count}\u202fB"
