"""What `evaluate_tracker` counts, by another way."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import supsup_runtime as supsup
from banks import make_bank
from conftest import random_task
from supsup_export import export
from supsup_runtime.arrays import Images
from supsup_runtime.data.dataset import Dataset
from supsup_runtime.data.streams import Stream, make_stream
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation import evaluate_tracker


@pytest.fixture
def stream() -> Stream:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (80, 5)).astype(np.uint8), np.arange(80) % 8
    return make_stream(
        "split",
        Dataset(name="d", train_x=x, train_y=y, test_x=x, test_y=y, mean=0.5, std=0.3, scale=255.0),
        num_tasks=4,
    )


@pytest.fixture
def model(tmp_path: Path, stream: Stream) -> supsup.Model:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=2, tasks=0)
    for seed, name in enumerate(reversed(stream.task_names)):  # another order than the stream's
        bank.add(random_task(bank.network, name, seed=seed))
    return supsup.load(export(bank, tmp_path / "out.onnx", check=False).path)


def test_runs_are_of_one_task_and_never_of_the_task_before(
    model: supsup.Model, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: dict[bytes, tuple[str, int]] = {}
    for place in range(4):
        data = stream.task(place, train=False)
        pairs = zip(data.test_x, data.test_y.tolist(), strict=True)
        tasks |= {x.tobytes(): (data.name, label) for x, label in pairs}
    frames: list[tuple[bytes, supsup.Posterior]] = []
    update = supsup.Tracker.update

    def recorded(self: supsup.Tracker, x: Images) -> supsup.Posterior:
        frames.append((x.tobytes(), update(self, x)))
        return frames[-1][1]

    monkeypatch.setattr(supsup.Tracker, "update", recorded)
    found = evaluate_tracker(model, stream, stay=3, switch=0.1, per_task=17)
    assert found["frames"] == len(frames) == 4 * 15
    assert len({frame for frame, _ in frames}) == len(frames)
    names = [tasks[frame][0] for frame, _ in frames]
    runs = [names[at : at + 3] for at in range(0, len(names), 3)]
    assert all(len(set(each)) == 1 for each in runs)
    assert all(one[0] != other[0] for one, other in itertools.pairwise(runs))
    for at in range(0, len(runs), 4):
        assert {each[0] for each in runs[at : at + 4]} == set(stream.task_names)
    named = list(zip(names, frames, strict=True))
    right = [belief.task == model.task(name) for name, (_, belief) in named]
    labels = [
        ok
        and belief.prediction is not None
        and belief.prediction.label_indices[0] == tasks[frame][1]
        for ok, (frame, belief) in zip(right, frames, strict=True)
    ]
    single = [
        model.infer_task(np.frombuffer(frame, np.float32)[None]).task == model.task(name)
        for name, (frame, _) in named
    ]
    assert found["inferred"] == np.mean(right)
    assert found["unknown"] == np.mean(labels)
    assert found["single"] == np.mean(single)
    assert found["refused"] is None
    assert evaluate_tracker(model, stream, stay=3, switch=0.1, per_task=17) | {"ms": 0} == {
        **found,
        "ms": 0,
    }


@pytest.mark.usefixtures("model")
def test_refusals_are_counted(stream: Stream, tmp_path: Path) -> None:
    bank = supsup.MaskBank.open(tmp_path / "masks")
    bank.set_calibration(
        supsup.Calibration(
            score="log-odds",
            threshold=1e3,
            coverage=0.95,
            images=9,
            auroc=None,
            accepted=None,
        )
    )
    refusing = supsup.load(export(bank, tmp_path / "other.onnx", check=False).path)
    found = evaluate_tracker(refusing, stream, stay=20)
    assert (found["refused"], found["inferred"], found["unknown"]) == (1, 0, 0)
    assert found["single"] > 0
    found = evaluate_tracker(
        refusing, stream, stay=20, method=supsup.Inference(method="exhaustive", score="entropy")
    )
    assert found["refused"] is None


def test_bad_numbers_are_refused(model: supsup.Model, stream: Stream) -> None:
    for options, message in (
        ({"stay": 0}, "stay must be an integer of at least 1, got 0"),
        ({"stay": 5, "per_task": 4}, "per_task must be an integer of at least 5, got 4"),
        ({"stay": 21}, r"stay: task 'split-0-1' must have at least 21 test images, got 20; take a"),
        ({"switch": 2}, r"switch must be a number in \[0, 1\], got 2"),
        ({"method": "one-shot"}, "a tracker needs method"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_tracker(model, stream, **options)
