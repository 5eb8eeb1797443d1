"""The parts of tools/reproduction: what is kept, what is counted, what is recorded."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tools.reproduce import main
from tools.reproduction.accuracy import Accuracy
from tools.reproduction.catalogue import EXPERIMENTS
from tools.reproduction.measuring import measuring_key
from tools.reproduction.store import Store, claim
from tools.reproduction.summary import row_summary
from tools.reproduction.tables import Table, compact, record, to_markdown, to_text

from commands import call
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
ACCURACY = {name: e for name, e in EXPERIMENTS.items() if isinstance(e, Accuracy)}


def line(task: str, **more: object) -> dict[str, object]:
    common = {"images": 10, "inferred": 0.5, "unknown": 0.4, "shared": 0.6, "known": 0.9}
    return {**common, "known_ms": 1.0, "unknown_ms": 2.0, "task": task, **more}


def test_rows_name_banks_that_there_are_and_labels_differ() -> None:
    for experiment in ACCURACY.values():
        for one in (experiment, experiment.tiny()):
            assert {key for row in one.rows for key in row.banks} == set(one.banks)
            assert len({row.label for row in one.rows}) == len(one.rows)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_documentation_has_what_the_results_make(name: str) -> None:
    result = json.loads((REPOSITORY / "docs" / "results" / f"{name}.json").read_text())
    experiment = EXPERIMENTS[name].altered(result["overrides"])
    assert (result["title"], result["differs"]) == (experiment.title, experiment.differs)
    if "tables" in result:
        assert result["tables"] == [asdict(table) for table in experiment.tables(result["rows"])]
    text = (REPOSITORY / "docs" / experiment.document).read_text()
    block = f"<!-- reproduce:{name} -->\n{experiment.block(result)}\n<!-- /reproduce:{name} -->"
    assert text.count(block) == 1, "python tools/reproduce.py --from-results writes it again"


def test_the_documentation_is_written_from_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "docs" / "results"
    results.mkdir(parents=True)
    for name in ("psp.json", "psp.svg"):
        shutil.copy(REPOSITORY / "docs" / "results" / name, results)
    comments = "<!-- reproduce:psp -->", "<!-- /reproduce:psp -->"
    document = tmp_path / "docs" / "REPRODUCIBILITY.md"
    document.write_text("\n".join(comments))
    monkeypatch.setattr("tools.reproduce.ROOT", tmp_path)
    monkeypatch.setattr("tools.reproduce.RESULTS", results)
    monkeypatch.setattr("tools.reproduction.catalogue.EXPERIMENTS", {"psp": EXPERIMENTS["psp"]})
    call(main, "reproduce", "--from-results")
    assert document.read_text() in (REPOSITORY / "docs" / "REPRODUCIBILITY.md").read_text()


def test_means_over_tasks_then_seeds_and_their_errors() -> None:
    row = replace(ACCURACY["digits"].rows[0], banks=("a", "b"), at_least=(("unknown", 40.1),))
    by_bank = {
        "a": [line("t-0"), line("t-1", unknown=0.2)],
        "b": [line("t-0"), line("t-1", unknown=0.6)],
    }
    found = row_summary(row, by_bank, 2)
    assert found["unknown"] == pytest.approx(0.4)
    assert found["seeds"]["unknown"] == pytest.approx([0.3, 0.5])
    assert found["tasks"]["unknown"] == pytest.approx([0.4, 0.4])
    assert found["unknown_se"] == pytest.approx(math.sqrt(0.4 * 0.6 / 40))
    assert "known_se" not in found  # over all test images
    assert found["asked"] == {"unknown": {"at_least": 40.1, "met": False}}
    batches = row_summary(replace(row, batch=10), by_bank, 2)
    assert batches["unknown_se"] == pytest.approx(math.sqrt(0.4 * 0.6 / 4))


def test_near_goes_the_shorter_way_round() -> None:
    row = ACCURACY["rotated-36"].rows[0]
    answers = {"rotated-350": 3, "rotated-000": 4, "rotated-010": 1, "rotated-020": 2}
    found = row_summary(row, {"fc": [line("rotated-000", inferred_as=answers)]}, 36)
    assert found["near"] == pytest.approx(0.8)
    found = row_summary(row, {"fc": [line("rotated-350", inferred_as=answers)]}, 36)
    assert found["near"] == pytest.approx(0.7)
    assert "near" not in row_summary(row, {"fc": [line("split-0-1", inferred_as={"x": 1})]}, 1)


def test_a_store_drops_a_line_cut_short_and_refuses_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    store = Store(path)
    for task in "ab":
        store.measured("k", task, lambda task=task: line(task))  # type: ignore[misc]  # bound now
    whole = path.read_text()
    path.write_text(whole + '{"key"')
    found = Store(path)
    assert path.read_text() == whole
    assert found.measured("k", "b", dict) == {**line("b"), "key": "k"}
    assert found.measured("other", "b", dict) == {"key": "other", "task": "b"}
    path.write_text('{"key": "k"}\n' + whole)
    with pytest.raises(InputError, match=r"rows.jsonl:1: must be a JSON object with key and task"):
        Store(path)


def test_a_line_cut_short_alone_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key"')
    Store(path)
    assert path.read_bytes() == b""


def test_a_folder_is_claimed_by_one_setting(tmp_path: Path) -> None:
    claim(tmp_path / "w", {"a": {"b": (1, 2)}})
    claim(tmp_path / "w", {"a": {"b": [1, 2]}})
    with pytest.raises(InputError, match=r"the folder has a.b\[1\] 2, this run has 3"):
        claim(tmp_path / "w", {"a": {"b": [1, 3]}})
    (tmp_path / "w" / "setting.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        claim(tmp_path / "w", {})


def test_text_and_markdown_have_the_same_cells() -> None:
    table = Table(title="Title", header=["a", "b"], rows=[["1", "2 of 3"]])
    assert to_text([table]) == "Title\na  b\n1  2 of 3"
    assert to_markdown([table]) == "Title:\n\n| a | b |\n|---|---|\n| 1 | 2 of 3 |"


def test_a_compact_table_has_no_empty_or_uniform_columns() -> None:
    columns = {"a": ["1", "2"], "b": ["", "-"], "c": ["3", "3"], "d": ["4", "4"], "e": ["-", "5"]}
    table = compact("Title", columns, "a", "b", "c")
    assert (table.title, table.header) == ("Title; c 3", ["a", "d", "e"])
    assert table.rows == [["1", "4", "-"], ["2", "4", "5"]]
    assert compact("Title", columns).title == "Title"


def test_text_is_recorded_between_its_markers_alone(tmp_path: Path) -> None:
    file = tmp_path / "docs.md"
    first, last = "<!-- reproduce:x -->", "<!-- /reproduce:x -->"
    file.write_text(f"before\n{first}\nold\n{last}\nafter\n")
    for _ in range(2):
        record(file, "reproduce:x", "new")
        assert file.read_text() == f"before\n{first}\nnew\n{last}\nafter\n"
    file.write_text(f"{last}\n{first}\n")
    with pytest.raises(InputError, match="must have the line <!-- reproduce:x -->"):
        record(file, "reproduce:x", "new")


def test_rows_become_a_table_and_what_was_asked_for_a_note() -> None:
    experiment = ACCURACY["split-5"]
    rows = [row_summary(row, {"k": [line("t-0")]}, 1) for row in experiment.rows]
    text = to_markdown(experiment.tables(rows))
    title = "In percent; task known (GG) 90.00, seeds 1, images per task 10:"
    assert text.splitlines()[0] == title
    assert "| method | task inferred | unknown (GNu) | labels alone (GNs) | ms |" in text
    assert "| verified, G | 50.00±15.81 | 40.00±15.49 |" in text
    bar = "Bars: task known (GG) at least 99 for verified, G (**not met** by verified, G)."
    assert experiment.notes(rows) == [experiment.differs, bar]


def test_settings_and_their_known_accuracy_stand_once() -> None:
    experiment = ACCURACY["digits"]
    by_bank = {"a": [line("t-0")], "b": [line("t-0")], "c": [line("t-0")]}
    rows = [row_summary(row, by_bank, 1) for row in experiment.rows]
    rows[1]["known"] = 0.5
    (table,) = experiment.tables(rows)
    assert table.header[:3] == ["setting", "method", "task known (GG)"]
    first = "256-128, 300 steps at 0.0001"
    assert [row[0] for row in table.rows[:6]] == [
        first,
        "",
        "",
        "",
        "",
        first.replace("300", "1000"),
    ]
    assert [row[2] for row in table.rows[:4]] == ["90.00", "50.00", "90.00", ""]


def test_bars_name_the_rows_that_miss_them() -> None:
    experiment = ACCURACY["digits"]
    rows = [row_summary(row, {"a": [line("t-0", inferred=1)]}, 1) for row in experiment.rows]
    bar = "Bars: task inferred at least 99 for verified, G"
    assert experiment.notes(rows)[1] == f"{bar} (met)."
    rows[2]["asked"]["inferred"]["met"] = False
    told = f"{bar} (**not met** by 256-128, 300 steps at 0.0001)."
    assert experiment.notes(rows)[1] == told
    experiment = ACCURACY["permuted-fc"]
    rows = [row_summary(row, {"a": [line("t-0", unknown=1)]}, 1) for row in experiment.rows]
    assert experiment.notes(rows) == ["Bars: unknown (GNu) at least 96.2 in all rows (met)."]


def test_what_nns_allocated_is_a_note() -> None:
    experiment = ACCURACY["nns-100"]
    lines = [line("t-0", known=None, unknown=None), line("t-1", known=None, unknown=None)]
    rows = [row_summary(experiment.rows[0], {"learner": lines}, 3)]
    assert experiment.notes(rows)[-1] == "3 masks allocated for 2 tasks."


def test_times_are_of_the_threads_that_were_asked_for(bank: MaskBank) -> None:
    row = ACCURACY["split-5"].rows[0]
    keys = [measuring_key(row, bank, threads=threads) for threads in (1, 1, 2, 3)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert measuring_key(replace(row, images=7), bank) != keys[0]


def test_settings_are_plain_json() -> None:
    for experiment in EXPERIMENTS.values():
        setting = experiment.setting()
        assert json.loads(json.dumps(setting)).get("banks", {}).keys() == experiment.banks.keys()
