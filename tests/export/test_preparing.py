"""Preprocessing baked into models: what is checked, refused and shown."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from banks import make_bank, picture_bank
from commands import run
from supsup_export import Request, export, export_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError, ParityError
from supsup_runtime.preprocessing import Preprocessing

STEPS = Preprocessing(mode="gray", size=(6, 9))
BAKED = Request(preprocess="baked")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> MaskBank:
    folder = tmp_path_factory.mktemp("preparing")
    return picture_bank(folder / "masks", "mlp-7-9", STEPS, tasks=3)


def test_equal_banks_give_equal_bytes(bank: MaskBank, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export(bank, tmp_path / name, request=BAKED)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    plain = export(bank, tmp_path / "plain").path
    assert 0 < (tmp_path / "first").stat().st_size - plain.stat().st_size < 8000


def test_steps_are_standard_operators(bank: MaskBank, tmp_path: Path) -> None:
    request = Request(preprocess="baked", target="portable")
    for path in (
        export(bank, tmp_path / "out.onnx", request=request).path,
        export_task(bank, "task-0", tmp_path / "one.onnx", preprocess="baked").path,
    ):
        model = onnx.load(path)
        assert {each.domain for each in model.opset_import} == {""}
        assert len([n for n in model.graph.node if n.op_type == "Range"]) == 2  # once a call


@pytest.mark.parametrize(
    ("name", "value"), [("EPSILON", 0.1), ("GRAY", (0.114, 0.587, 0.299)), ("FLOAT", 10)]
)
@pytest.mark.parametrize("single", [False, True])
def test_other_steps_are_found(
    bank: MaskBank,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
    single: bool,
) -> None:
    """The check runs pictures of two sizes; float16 is not even valid here."""
    monkeypatch.setattr(f"supsup_export.preparing.{name}", value)
    out = tmp_path / "out.onnx"
    with pytest.raises(ParityError):
        _ = (
            export_task(bank, "task-0", out, preprocess="baked")
            if single
            else export(bank, out, request=BAKED)
        )
    assert not out.exists()


def test_a_bank_without_preprocessing_is_refused(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    message = (
        f"preprocess: baked needs a bank with preprocessing, {bank.path} has none; create it with "
        "preprocessing, as supsup-train own does, or leave this out"
    )
    for words in ([], ["--task", "task-0"]):
        given = ["--bank", bank.path, tmp_path / "o.onnx", *words, "--preprocess", "baked"]
        done = run("supsup-export", *given, status=1)
        assert done.stderr == f"supsup-export: {message}\n"
    for wrong in ("baked-in", None):
        with pytest.raises(InputError, match="preprocess: must be one of runtime, baked, got "):
            Request(preprocess=wrong)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(InputError, match="preprocess: must be one of runtime, baked, got "):
            export_task(bank, "task-0", tmp_path / "o.onnx", preprocess=wrong)  # type: ignore[arg-type]  # on purpose


def test_recoveries_have_none(bank: MaskBank, tmp_path: Path) -> None:
    words = ("--bank", bank.path, tmp_path / "o.onnx", "--hopfield", "--preprocess", "baked")
    done = run("supsup-export", *words, status=1)
    assert done.stderr == (
        "supsup-export: --preprocess: does not apply to a model that recovers masks; leave out "
        "this option or --hopfield\n"
    )


def test_inspect_shows_the_steps_and_where_they_are_taken(bank: MaskBank, tmp_path: Path) -> None:
    export(bank, tmp_path / "runtime.onnx", sidecar=True)
    out = tmp_path / "baked.onnx"
    run("supsup-export", "--bank", bank.path, out, "--preprocess", "baked", "--sidecar")
    for path, where in ((tmp_path / "runtime.onnx", "runtime"), (out, "baked")):
        found = json.loads(run("supsup-inspect", path, "--time", "--json").stdout)
        assert found["preprocess"] == where
        assert found["preprocessing"] == STEPS.to_dict()
        beside = json.loads(Path(f"{path}.json").read_text())
        assert beside.get("org.supsup.preprocess", "runtime") == where
    assert json.loads(run("supsup-inspect", bank.path, "--json").stdout)["preprocessing"] == (
        STEPS.to_dict()
    )
    text = run("supsup-inspect", out).stdout
    assert "  preprocess: baked\n" in text
    assert "  preprocessing: mean none, mode gray, scale 255, size 6, 9, std none\n" in text
