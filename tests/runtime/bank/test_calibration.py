"""No known task: the bank's file, the model's, and what a prediction says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conftest import random_task, small_network
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import BankError, BankLockedError, ModelError
from supsup_runtime.files import exclusive
from supsup_runtime.model.inference import Inference, TaskInference, resolved_score, threshold_of
from supsup_runtime.model.metadata import PREFIX, ModelInfo, TaskInfo
from supsup_runtime.model.prediction import Prediction

FOUND = Calibration(
    score="entropy", threshold=-1.5, coverage=0.96, images=25, auroc=0.75, accepted=None
)
NEW = replace(
    FOUND,
    method="verified",
    candidates=4,
    inferred=0.9,
    scale=(1.0, 0.5, 2.0),
    shift=(0.0, -1.0, 3.5),
)
TASKS = tuple(TaskInfo(index=i, name=str(i), real_outputs=2) for i in range(3))


def info(network: Network, calibration: Calibration | None) -> ModelInfo:
    return ModelInfo(
        network=network,
        digest=network.digest(b"forward"),
        tasks=TASKS,
        objective="entropy",
        mode="full",
        target="cpu",
        forward=b"forward",
        calibration=calibration,
    )


def test_a_calibration_as_json_and_back() -> None:
    value = json.loads(json.dumps(FOUND.to_dict()))
    assert Calibration.from_dict(value) == FOUND
    whole = replace(FOUND, auroc=1, accepted=0.0, coverage=1)
    assert Calibration.from_dict(whole.to_dict()) == whole


def test_a_calibration_of_format_2_as_json_and_back() -> None:
    for found in (NEW, replace(NEW, method="exhaustive", candidates=None, scale=(), shift=())):
        assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert set(NEW.to_dict()) - set(FOUND.to_dict()) == {
        *("method", "candidates", "inferred", "scale", "shift")
    }


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "one-shot", "method must be one of .* got 'one-shot'"),
        (
            "method",
            "exhaustive",
            "candidates must be an integer .* with verified, else null, got 4",
        ),
        ("candidates", None, "candidates must be an integer of at least 1 with .* got None"),
        ("candidates", 0, "candidates must be an integer of at least 1 with .* got 0"),
        ("candidates", True, "candidates must be an integer of at least 1 with .* got True"),
        ("inferred", 1.5, r"inferred must be a number in \[0, 1\], got 1.5"),
        ("scale", [1.0], "scale and shift must be of the same tasks, got 1 and 3"),
        ("scale", [1.0, 0.0, 1.0], "scale must be a number in .* got 0.0"),
        ("scale", [1.0, -1.0, 1.0], "scale must be a number in .* got -1.0"),
        ("scale", [1.0, "2", 1.0], "scale must be a number in .* got '2'"),
        ("shift", [0.0, 1e31, 0.0], "shift must be a number in .* got 1e[+]31"),
        ("shift", "abc", "shift must be a list, got 'abc'"),
    ],
)
def test_malformed_ways_to_infer_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(BankError, match=f"^calibration: {message}"):
        Calibration.from_dict({**NEW.to_dict(), field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": None}, "scale must be a tuple, got None"),
        ({"shift": [0.0, 0.0, 0.0]}, r"shift must be a tuple, got \[0.0"),
        ({"method": ["verified"]}, r"method must be one of .* got \['verified'\]"),
        ({"method": None, "candidates": None}, "scale goes with a method, got none"),
    ],
)
def test_wrong_ways_to_infer_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BankError, match=f"^calibration: {message}"):
        replace(NEW, **change)


def test_a_bank_takes_an_adjustment_of_its_own_tasks_alone(bank: MaskBank) -> None:
    with pytest.raises(BankError, match="scale must have one number per task, 3, got 2"):
        bank.set_calibration(replace(NEW, scale=(1.0, 1.0), shift=(0.0, 0.0)))
    assert bank.calibration() is None
    bank.set_calibration(NEW)
    file = bank.path / "calibration.json"
    value = json.loads(file.read_text())
    value["calibration"] |= {"scale": [1.0], "shift": [0.0]}
    file.write_text(json.dumps(value))
    with pytest.raises(BankError, match="scale must have one number per task, 3, got 1; run"):
        bank.calibration()


def test_an_adjustment_is_of_the_models_tasks() -> None:
    assert info(small_network(), NEW).calibration == NEW
    with pytest.raises(BankError, match="scale must have one number per task, 3, got 2"):
        info(small_network(), replace(NEW, scale=(1.0, 1.0), shift=(0.0, 0.0)))


def test_a_file_of_format_1_is_read_as_before(bank: MaskBank) -> None:
    bank.set_calibration(FOUND)
    file = bank.path / "calibration.json"
    value = json.loads(file.read_text())
    assert value["format"] == 2
    file.write_text(json.dumps({**value, "format": 1}))
    stored = bank.calibration()
    assert stored is not None
    assert stored.calibration == FOUND


MALFORMED = [
    ("score", None, "score must be one of .* got None"),
    ("score", "margin", "score must be one of .* got 'margin'"),
    ("score", ["entropy"], "score must be one of"),
    ("threshold", math.nan, "threshold must be a number in .* got nan"),
    ("threshold", math.inf, "threshold must be a number in .* got inf"),
    ("threshold", 10**400, "threshold must be a number in"),
    ("threshold", "1", "threshold must be a number in .* got '1'"),
    ("threshold", True, "threshold must be a number in .* got True"),
    ("threshold", None, "threshold must be a number in .* got None"),
    ("coverage", 0, "coverage must be above 0, got 0"),
    ("coverage", 1.1, r"coverage must be a number in \[0, 1\], got 1.1"),
    ("images", 0, "images must be an integer of at least 1, got 0"),
    ("images", 3.0, "images must be an integer of at least 1, got 3.0"),
    ("images", True, "images must be an integer of at least 1, got True"),
    ("auroc", -0.1, r"auroc must be a number in \[0, 1\], got -0.1"),
    ("accepted", math.nan, r"accepted must be a number in \[0, 1\], got nan"),
]


@pytest.mark.parametrize(("field", "value", "message"), MALFORMED)
def test_malformed_calibrations_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(BankError, match=f"^calibration: {message}"):
        Calibration.from_dict({**FOUND.to_dict(), field: value})


@pytest.mark.parametrize("value", [None, [], "x", {}, {**asdict(FOUND), "more": 1}])
def test_calibrations_have_exactly_their_fields(value: object) -> None:
    with pytest.raises(BankError, match="calibration: fields must be"):
        Calibration.from_dict(value)


def test_a_bank_keeps_its_calibration(bank: MaskBank) -> None:
    assert bank.calibration() is None
    bank.set_calibration(FOUND)
    first = (bank.path / "calibration.json").read_bytes()
    stored = MaskBank.open(bank.path).calibration()
    assert stored is not None
    assert (stored.calibration, stored.stale) == (FOUND, "")
    bank.set_calibration(replace(FOUND, threshold=0.1))
    bank.set_calibration(FOUND)
    assert (bank.path / "calibration.json").read_bytes() == first  # equal content, equal bytes
    assert first == first.strip() + b"\n"
    assert not list(bank.path.glob(".*.part"))


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (lambda b: b.add(random_task(b.network, "new", 9)), "task 'new' was added or renamed"),
        (lambda b: b.remove("task-1"), "task 'task-1' was removed"),
        (lambda b: b.rename("task-2", "last"), "task 'last' was added or renamed"),
        (lambda b: b.replace(random_task(b.network, "task-1", 9)), "task 'task-1' was replaced"),
        (
            lambda b: (b.remove("task-0"), b.add(random_task(b.network, "task-0", 0))),
            "the tasks' order changed",
        ),
    ],
)
def test_a_changed_bank_has_a_stale_calibration(
    bank: MaskBank, change: Callable[[MaskBank], object], stale: str
) -> None:
    bank.set_calibration(FOUND)
    change(bank)
    stored = MaskBank.open(bank.path).calibration()
    assert stored is not None
    assert stored.stale == f"{stale} since"


def test_a_task_put_back_is_the_task_that_was_measured(bank: MaskBank) -> None:
    bank.set_calibration(FOUND)
    bank.replace(random_task(bank.network, "task-1", 9))
    bank.replace(random_task(bank.network, "task-1", 1))
    stored = bank.calibration()
    assert stored is not None
    assert stored.stale == ""


def test_tasks_that_change_while_they_are_measured(bank: MaskBank) -> None:
    MaskBank.open(bank.path).remove("task-0")
    with pytest.raises(BankError, match="tasks changed while they were measured"):
        bank.set_calibration(FOUND)
    assert not (bank.path / "calibration.json").exists()
    with exclusive(bank.path), pytest.raises(BankLockedError, match="another process"):
        bank.set_calibration(FOUND)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: "{", "Expecting"),
        (lambda _: "[" * 100_000, "recursion|Stack overflow"),
        (lambda _: "[]", "calibration format must be 1 or 2, got 'list'"),
        (lambda v: {**v, "more": 1}, "fields must be"),
        (lambda v: {**v, "format": 3}, "format must be 1 or 2, got 3"),
        (lambda v: {**v, "format": True}, "format must be 1 or 2, got True"),
        (
            lambda v: {**v, "digest": "0" * 64},
            "network: digest must be [0-9a-f]{64}, got '00",
        ),
        (lambda v: {**v, "tasks": []}, r"tasks must be a list of 1 to 100000, got \[\]"),
        (
            lambda v: {**v, "tasks": [1]},
            r"must have the strings \['name', 'sha256'\], got 1",
        ),
        (lambda v: {**v, "tasks": [{"name": "a"}]}, "a task must have the strings"),
        (lambda v: {**v, "tasks": [{"name": "a", "sha256": 1}]}, "a task must have the strings"),
        (lambda v: {**v, "calibration": 3}, "calibration: fields must be"),
        (lambda v: json.dumps(v).replace("-1.5", "NaN"), "must be JSON: NaN is not finite"),
        (lambda v: json.dumps(v).replace("-1.5", "-1e999"), "must be JSON: -1e999 is not"),
        (lambda v: json.dumps(v).replace("-1.5", "1" * 5000), "digits"),
    ],
)
def test_damaged_files_are_refused(
    bank: MaskBank, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    bank.set_calibration(FOUND)
    path = bank.path / "calibration.json"
    value = change(json.loads(path.read_text()))
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(BankError, match=message) as caught:
        bank.calibration()
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; run supsup-calibrate again, or remove the file")
    assert "\n" not in str(caught.value)
    assert MaskBank.open(bank.path).task_names == bank.task_names  # no task needs the file
    bank.set_calibration(FOUND)
    assert bank.calibration() is not None


def test_links_and_folders_are_refused(bank: MaskBank, tmp_path: Path) -> None:
    path = bank.path / "calibration.json"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BankError, match="symbolic links are refused"):
        bank.calibration()
    with pytest.raises(BankError, match="symbolic links are refused"):
        bank.set_calibration(FOUND)
    path.unlink()
    path.mkdir()
    with pytest.raises(BankError, match="must be a regular file"):
        bank.calibration()


def test_a_model_says_its_calibration_or_nothing() -> None:
    network = small_network()
    plain = info(network, None)
    assert PREFIX + "calibration" not in plain.to_metadata()
    for found in (None, FOUND, replace(FOUND, score="log-odds", auroc=None, accepted=1.0)):
        model = info(network, found)
        assert ModelInfo.from_metadata(model.to_metadata(), place="m") == model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "malformed"),
        ("3", "calibration: fields must be"),
        (json.dumps({**FOUND.to_dict(), "threshold": None}), "threshold must be a number"),
        (json.dumps({**FOUND.to_dict(), "score": "log-odds"}), "needs superfluous outputs"),
    ],
)
def test_models_with_a_malformed_calibration_are_refused(text: str, message: str) -> None:
    network = replace(small_network(), outputs=2)  # no superfluous outputs
    metadata = info(network, FOUND).to_metadata()
    with pytest.raises(ModelError, match=message):
        ModelInfo.from_metadata({**metadata, PREFIX + "calibration": text}, place="m")


@pytest.mark.parametrize(
    ("how", "score"),
    [
        (Inference(method="verified"), "log-odds"),
        (Inference(method="verified", candidates=9), "log-odds"),
        (Inference(method="exhaustive"), "log-odds"),
        (Inference(method="exhaustive", score="entropy"), "entropy"),
        (Inference(method="verified", score="max-probability"), "max-probability"),
        (Inference(method="one-shot"), None),
        (Inference(method="binary"), None),
        (Inference(method="gradient"), None),
    ],
)
def test_only_what_was_calibrated_is_judged(how: Inference, score: str | None) -> None:
    for found in ("log-odds", "entropy", "max-probability"):
        model = info(small_network(), replace(FOUND, score=found))
        assert resolved_score(model, how) == score
        assert threshold_of(model, how) == (-1.5 if found == score else None)
    assert threshold_of(info(small_network(), None), how) is None


def test_without_superfluous_outputs_entropy_is_what_is_calibrated() -> None:
    model = info(replace(small_network(), outputs=2), FOUND)
    assert threshold_of(model, Inference(method="verified")) == -1.5


@pytest.mark.parametrize(
    ("scores", "threshold", "known"),
    [
        ([0.0, 2.0, 1.0], 2.0, True),  # reaching it is enough
        ([0.0, 2.0, 1.0], np.nextafter(2.0, 3), False),
        ([-math.inf, -7.0, -math.inf], -7.5, True),
        ([1.0, math.nan, 2.0], -1e9, False),  # what is no number is not known
        ([0.0, 2.0, 1.0], None, None),
    ],
)
def test_known_is_the_best_score_against_the_threshold(
    scores: list[float], threshold: float | None, known: bool | None
) -> None:
    found = TaskInference.from_scores(np.array(scores), TASKS, "verified", 5, threshold)
    assert found.known is known


def test_a_prediction_says_it_of_each_row() -> None:
    def made(rows: int, found: list[float]) -> Prediction:
        judged = tuple(
            TaskInference.from_scores(np.array([best, -9.0, -9.0]), TASKS, "verified", 5, 1.0)
            for best in found
        )
        logits: npt.NDArray[np.float32] = np.zeros((rows, 3), np.float32)
        return Prediction(logits=logits, tasks=TASKS[:1] * rows, inferences=judged)

    assert made(3, [0.0, 1.0, 2.0]).known == (False, True, True)
    assert made(3, [0.0]).known == (False, False, False)  # a batch is of one task
    assert made(1, [1.0]).known == (True,)
    assert made(2, []).known == (None, None)  # the task was given
