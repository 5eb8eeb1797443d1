"""The page of a report, section by section."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supsup_runtime.arrays import checked_path
from supsup_runtime.errors import InputError, OutputExistsError
from supsup_runtime.evaluation.findings import Pair, answer_name, confused_classes
from supsup_runtime.evaluation.report.charts import losses, percent, reliability
from supsup_runtime.evaluation.report.markup import Markup, joined, tag
from supsup_runtime.files import refuse_overwrite, remove_parts, system_errors, write_whole

Result = Mapping[str, Any]
_BEGIN = "<!doctype html>"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LISTED = 40
"""Tasks up to which each has a line of its own."""
_MAPPED = 12
"""Columns of a map, and lines of a list."""
_CARDS = 6
"""Cards up to which all are open, and twice as many at most."""


def write_report(path: Path, result: Result) -> None:
    """Write the report of an evaluation as one HTML file, whole or not at all.

    Args:
        path: File to write; an old one is replaced.
        result: What `evaluate` returns for named tasks, with ``model`` and ``data`` (names) and
            with ``curves``, ``pictures`` and ``sizes`` of `sources`.
    """
    path = checked_path(path)
    remove_parts(path.parent, path.name)
    write_whole(path, page(result).encode("utf-8", "replace"))


def claim_report(path: Path, *, force: bool) -> None:
    """Refuse a path that no report may be written to.

    Args:
        path: File of a report.
        force: Allow a path where a report is.

    Raises:
        InputError: If its folder does not exist.
        FileError: If the system refuses.
        OutputExistsError: If there is another file, or a report without `force`.
    """
    with system_errors(checked_path(path), "written"):
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist; create it first")
        refuse_overwrite(path, force=force)
        if path.exists():
            with path.open("rb") as file:
                if file.read(len(_BEGIN)) != _BEGIN.encode():
                    raise OutputExistsError(
                        f"{path}: exists and is no report; choose another --report"
                    )


def page(result: Result) -> str:
    """Return the page."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{result['model']}: supsup-eval"),
        tag("style", Markup(style)),
    )
    main = tag("main", tag("header", *_header(result)), *_sections(result))
    return f"{_BEGIN}\n{tag('html', tag('head', *head), tag('body', main), lang='en')}\n"


def _sections(result: Result) -> Iterator[Markup]:
    if result["warnings"]:
        items = [tag("p", f"{text[0].upper()}{text[1:]}.") for text in result["warnings"]]
        yield tag("section", tag("h2", "Warnings"), *items, class_="warnings")
    for title, inside in (
        ("Accuracy of each task", _accuracy(result["tasks"])),
        ("Tasks taken for others", _confusion(result)),
        ("Classes taken for others", _classes(result["tasks"])),
        ("Pictures that went wrong", _wrong(result["pictures"])),
        ("Learning", _learning(result["curves"])),
        ("Margins and confidence", _certainty(result["tasks"])),
        ("Inputs of no known task", _refusal(result["refusal"])),
        ("Size and time", _costs(result)),
    ):
        yield tag("section", tag("h2", title), inside)


def _note(*text: object) -> Markup:
    return tag("p", *text, class_="note")


def _key(*kinds: tuple[str, str]) -> Markup:
    return _note(*(tag("span", text, class_=f"key {kind}") for kind, text in kinds))


def _card(title: str, *inside: object) -> Markup:
    return tag("figure", tag("h3", title), *inside)


def _cards(*cards: Markup, class_: str = "cards") -> Markup:
    """Cards side by side, those above `_CARDS` folded."""
    shown = tag("div", *cards[:_CARDS], class_=class_)
    more = cards[_CARDS:]
    if not more:
        return shown
    summary = tag("summary", f"{len(more)} more")
    return joined(shown, tag("details", summary, tag("div", *more, class_=class_)))


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: int) -> Markup:
    """A table whose last `numbers` columns are numbers."""
    kinds = ["t"] * (len(heads) - numbers) + ["n"] * numbers

    def line(kind: str, row: Sequence[object]) -> Markup:
        pairs = zip(row, kinds, strict=True)
        return tag("tr", *(tag(kind, cell, class_=column) for cell, column in pairs))

    body = tag("tbody", *(line("td", row) for row in rows))
    return tag("table", tag("thead", line("th", heads)), body)


def _header(result: Result) -> Iterator[Markup]:
    count, size, sizes = len(result["tasks"]), result["batch"], result["sizes"]
    batch = "one image" if size == 1 else f"batches of {size} images"
    yield tag("h1", result["model"])
    yield _note(
        f"{count:,} task{'s' * (count > 1)} of {result['data']}; task inferred by "
        f"{result['method']} from {batch}"
    )
    labels, tasks = result["chance"], result["chance_inferred"]
    tiles = [
        (name, percent(result[key]), f"guessing {percent(chance)}")
        for name, key, chance in (
            ("Label right, task known", "known", labels),
            ("Label and task right, task unknown", "unknown", labels * tasks),
            ("Task right", "inferred", tasks),
        )
    ]
    separate = f"as float32 {_bytes(sizes['float_bytes'])}"
    tiles.append(("Model", _bytes(sizes["model_bytes"]), separate))
    yield tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", value), tag("dd", note, class_="note"))
            for name, value, note in tiles
        ),
    )


def _accuracy(rows: Sequence[Result]) -> Markup:
    if len(rows) <= _LISTED:
        return _accuracies(rows)
    order = sorted(rows, key=lambda row: (row["unknown"] or 0, row["known"]))  # None: of all
    keys = (("known", "label, task known"), ("unknown", "label and task"), ("inferred", "task"))
    shares = {text: [row[key] for row in rows if row[key] is not None] for key, text in keys}
    lowest = _card("The 10 lowest", _accuracies(order[:10]))
    every = tag("details", tag("summary", f"All {len(rows):,} tasks"), _accuracies(rows))
    return joined(_cards(_card("Of the tasks", _spread("right", shares, percent)), lowest), every)


def _spread(
    first: str, groups: Mapping[str, Sequence[float]], text: Callable[[float], str]
) -> Markup:
    """A row for each group with values: least, tenths and middle, most."""
    rows = [
        (name, *map(text, np.quantile(values, (0, 0.1, 0.5, 0.9, 1)).tolist()))
        for name, values in groups.items()
        if len(values)
    ]
    return _table((first, "least", "10\u202f%", "half", "90\u202f%", "most"), rows, 5)


def _accuracies(rows: Sequence[Result]) -> Markup:
    keys = ("chance", "known", "unknown", "inferred")
    lines = [(row["task"], *(percent(row[key]) for key in keys)) for row in rows]
    heads = ("task", "guessing the label", "label, task known", "label and task", "task")
    return _table(heads, lines, 4)


def _confused(
    kind: str,
    shares: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    pairs: Sequence[Pair],
) -> Markup:
    """A map, whose diagonal is right, of few columns, or else the pairs confused most."""
    if len(columns) > _MAPPED:
        lines = [(one, other, percent(share)) for one, other, share in pairs[:_MAPPED]]
        return _table((kind, "taken for", "share"), lines, 1)

    def cell(i: int, k: int, share: float) -> Markup:
        told = {"class_": "right" if i == k else "wrong", "style": f"--share: {share**0.5:.0%}"}
        text = f"{100 * share:.0f}" if share >= 0.01 else ""
        return tag("td", text, **told, title=f"{rows[i]} as {columns[k]}: {percent(share)}")

    heads = [tag("th", k + 1) for k in range(len(columns))]
    body = [
        tag("tr", tag("th", f"{i + 1}. {name}"), *(cell(i, k, x) for k, x in enumerate(shares[i])))
        for i, name in enumerate(rows)
    ]
    return tag("table", tag("tr", tag("th"), *heads), *body, class_="map")


def _confusion(result: Result) -> Markup:
    rows, pairs = result["tasks"], result["confusion"]
    if not pairs:
        wrong = result["inferred"] is None
        return _note("Not measured." if wrong else "None: the task of every image is right.")
    names = [row["task"] for row in rows]
    shares = [[row["inferred_as"].get(name, 0) / row["images"] for name in names] for row in rows]
    note = _note("Rows: the images' task; columns: the task inferred; in percent of the row.")
    return _cards(tag("figure", _confused("task", shares, names, names, pairs), note))


def _classes(rows: Sequence[Result]) -> Markup:
    cards = []
    for row in sorted(rows, key=lambda row: row["known"])[: 2 * _CARDS]:
        shares = [[count / (sum(counts) or 1) for count in counts] for counts in row["classes"]]
        columns = [answer_name(row, k) for k in range(len(shares[0]))]
        drawn = _confused("class", shares, row["labels"], columns, confused_classes([row]))
        cards.append(_card(f"{row['task']}: {percent(row['known'])}", drawn))
    note = "Task known. Rows: the class; columns: the answer; in percent of the row."
    if len(cards) < len(rows):
        note += f" {len(cards)} of {len(rows):,} tasks, with the lowest accuracy."
    return joined(_note(note), _cards(*cards, class_="cards small"))


def _wrong(pictures: Sequence[Result]) -> Markup:
    groups: dict[str, list[Markup]] = {}
    for entry in pictures:
        other = entry["inferred"]
        task = () if other is None else (tag("br"), f"as {other}")
        alt = f"{entry['label']} answered as {entry['answer']}"
        image = tag("img", src=entry["picture"], alt=alt, title=entry["name"])
        sure = f"{100 * entry['confidence']:.0f}\u202f%"
        said = (tag("b", entry["label"]), f" → {entry['answer']}", tag("br"), sure)
        figure = tag("figure", image, tag("figcaption", *said, *task))
        groups.setdefault(entry["task"], []).append(figure)
    note = "At most five of a task: the class, then the answer and its probability."
    cards = [_card(task, tag("div", *each, class_="pictures")) for task, each in groups.items()]
    return joined(_note(note if cards else "None to show."), _cards(*cards))


def _learning(curves: Sequence[Result]) -> Markup:
    if not curves:
        return _note("Not shown: give --bank, with a training log that has loss curves.")
    key = _key(("mean", "mean"), ("thin", "each task"))
    cards = [_card("Training loss", losses(curves), key)]
    both = [curve for curve in curves if {"accuracy", "train_accuracy"} <= set(curve)]
    if both:
        both.sort(key=lambda curve: curve["accuracy"] - curve["train_accuracy"])
        keys = ("train_accuracy", "accuracy")
        rows = [(each["task"], *(percent(each[key]) for key in keys)) for each in both[:_MAPPED]]
        table = _table(("task, the largest difference first", "training", "held out"), rows, 2)
        cards.append(_card("Training and held-out accuracy", table))
    return _cards(*cards)


def _certainty(rows: Sequence[Result]) -> Markup:
    groups = {k: [x for row in rows for x in row["margins"][k]] for k in ("right", "wrong")}
    margins = {f"{kind}: {len(each):,} images": each for kind, each in groups.items()}
    cards = []
    if any(groups.values()):
        note = _note("Best task's score minus the second best.")
        spread = _spread("task", margins, "{:.3g}".format)
        cards.append(_card("Margin of the task", spread, note))
    sums = {
        k: np.sum([row["calibration"][k] for row in rows], axis=0) for k in ("known", "unknown")
    }
    key = _key(("known", "task known"), ("unknown", "task unknown: label and task"))
    note = _note("How often labels are right, by their probability. Dashed: as often as it says.")
    drawn = reliability({kind: each.tolist() for kind, each in sums.items()})
    return _cards(*cards, _card("Confidence in the label", drawn, key, note))


def _refusal(found: Result | None) -> Markup:
    """What the calibration in the model says of rejecting, on the images that it held out."""
    if found is None:
        return _note("Not measured: run supsup-calibrate, and export the bank again.")
    rows = [("images of known tasks accepted by the threshold", percent(found["coverage"]))]
    for key, text, show in (
        ("accepted", "the same, of further images", percent),
        ("auroc", "AUROC, each task left out in turn", "{:.3f}".format),
    ):
        if found[key] is not None:
            rows.append((text, show(found[key])))
    note = "One half: chance. A task whose images were negatives of others is told apart easily."
    return joined(_table(("as calibrated", "measured"), rows, 1), _note(note))


def _costs(result: Result) -> Markup:
    names = ("model_bytes", "this model"), ("float_bytes", "a float32 model for each task")
    sizes = [
        (text, _bytes(result["sizes"][key]))
        for key, text in (*names, ("task_bytes", "one more task"))
    ]
    times = []
    for key, text in (
        ("known_ms", "one image, task known"),
        ("unknown_ms", f"batch of {result['batch']}, task inferred"),
    ):
        found = [row[key] for row in result["tasks"] if row[key] is not None]
        if found:
            three = (min(found), result[key], max(found))
            times.append((text, *(f"{each:.3f}" for each in three)))
    heads = ("medians of the tasks, in ms", "least", "mean", "most")
    cards = _card("Size", _table(("", "bytes"), sizes, 1)), _card("Time", _table(heads, times, 3))
    return _cards(*cards)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g}\u202f{unit}"
    return f"{count}\u202fB"
