"""supsup-eval: the report it writes, and what it refuses before it works."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import run
from reports import made_up
from supsup_runtime.cli import evaluate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bank", "masks"], "--bank: goes with --report; add it, or leave --bank out"),
        (["--force"], "--force: goes with --report; add it, or leave --force out"),
        (["--report", "no/r.html"], "no/r.html: the folder no does not exist; create it first"),
        (["--report", "there.html"], "there.html: exists already; pass --force to replace it"),
        (
            ["--report", "out.onnx", "--force"],
            "out.onnx: exists and is no report; choose another --report",
        ),
        (["--report", ".", "--force"], ".: is a folder, expected the path of a file"),
        (
            ["--report", "r.html", "--scenario", "NNs"],
            "--report: goes with --scenario named, got NNs; leave it out",
        ),
        (["--switch", "0.1"], "--switch: goes with --stay; add it, or leave --switch out"),
        (
            ["--stay", "30", "--per-task", "0"],
            "--stay: runs of 30 frames need as many images, got --per-task 0; raise it",
        ),
        (
            ["--stay", "5", "--scenario", "NNs"],
            "--stay: goes with --scenario named, got NNs; leave it out",
        ),
    ],
)
def test_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out.onnx").write_bytes(b"a model")
    Path("there.html").write_text("<!doctype html>\n")
    done = run("supsup-eval", "out.onnx", "permuted", *options, status=1)
    assert done.stderr == f"supsup-eval: {message}\n"
    assert Path("out.onnx").read_bytes() == b"a model"


TEXT = st.text(
    st.one_of(st.sampled_from("\n\r\x1b\x9b\u2028"), st.characters(exclude_categories=[]))
)


@given(labels=st.lists(TEXT, min_size=2, max_size=3), name=TEXT)
def test_any_label_is_printed_on_its_line(labels: list[str], name: str) -> None:
    names = [name, name + "'", name + "''"]
    value = made_up(names, labels, lost=3)
    value["warnings"].append(f"about {name} {labels}")
    with pytest.MonkeyPatch.context() as patch:
        for function in ("load_model", "model_tasks", "inference_of"):
            made = SimpleNamespace(task_names=names, default_method="", how=lambda: None)
            patch.setattr(evaluate, function, lambda *_, made=made: made)
        patch.setattr(evaluate, "evaluate", lambda *_, **__: value)
        done = run("supsup-eval", "out.onnx", "permuted")
    lines = done.stdout.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    done.stdout.encode()
    kinds = [line.partition(":")[0] for line in lines[5:]]
    assert kinds[:2] == ["method", "tasks most confused"]
    assert [kind for kind in kinds[2:] if kind != "classes most confused"] == ["warning"]


@pytest.mark.slow
def test_from_training_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--model", "mlp-64-32", "--outputs", 20, "--lr", "1e-3", "--steps", 120]
    run("supsup-train", "rotated", *small, "--tasks", 3, "--bank", "masks", "--quiet")
    lines = [json.loads(line) for line in Path("masks/train.jsonl").read_text().splitlines()]
    for line in lines:
        assert [step for step, _ in line["loss"]] == list(range(3, 121, 3))
        assert line["loss"][0][1] > line["loss"][-1][1] > 0
        assert 0.7 < line["train_accuracy"] <= 1
    run("supsup-export", "--bank", "masks", "out.onnx")
    common = ["out.onnx", "rotated", "--per-task", 40, "--json"]
    done = run("supsup-eval", *common, "--report", "r.html", "--bank", "masks")
    value, page = json.loads(done.stdout), Path("r.html").read_text()
    assert value["chance_inferred"] == 1 / 3
    for row, line in zip(value["tasks"], lines, strict=True):
        assert row["known"] == pytest.approx(line["accuracy"], abs=1e-9)
        assert sum(map(sum, row["classes"])) == row["test_images"]
        assert sum(row["classes"][k][k] for k in range(10)) == round(
            row["known"] * row["test_images"]
        )
        assert len(row["margins"]["right"]) == row["inferred_as"].get(row["task"], 0)
        assert sum(map(len, row["margins"].values())) == row["images"] == 40
        known = row["calibration"]["known"]
        assert sum(span[0] for span in known) == row["test_images"]
        assert sum(span[1] for span in known) == round(row["known"] * row["test_images"])
        unknown = row["calibration"]["unknown"]
        assert sum(span[1] for span in unknown) == round(row["unknown"] * 40)
        assert 0 < len(row["wrong"]) <= 5
        assert f">{100 * row['known']:.1f}\u202f%<" in page
    assert page.count("data:image/png") == sum(len(row["wrong"]) for row in value["tasks"])
    assert page.count('class="thin"') == 3
    run("supsup-eval", *common, "--report", "r.html", "--bank", "masks/train.jsonl", "--force")
    again = ["--report", "r.html", "--bank", "out.onnx", "--force"]
    done = run("supsup-eval", *common, *again, status=1)
    assert "out.onnx:1: must be a line of supsup-train's log" in done.stderr
    assert (
        page.partition("Size and time")[0]
        == Path("r.html").read_text().partition("Size and time")[0]
    )
    text = run("supsup-eval", "out.onnx", "rotated", "--per-task", 40).stdout.splitlines()
    assert text[0].split()[-1] == "chance"
    named = [line.partition(":")[0] for line in text[6:]]
    assert named[:2] == ["tasks most confused", "classes most confused"]
