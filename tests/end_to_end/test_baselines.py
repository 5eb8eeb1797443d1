"""Every baseline, learned on the bundled digits, exported, and evaluated as masks are."""

from __future__ import annotations

from pathlib import Path

import pytest

from supsup_export.exporter import export
from supsup_runtime import load
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.evaluation import evaluate_task
from supsup_runtime.model.inference import Inference
from supsup_train.baselines import (
    METHODS,
    BaselineMethod,
    BaselineRecipe,
    make_baseline,
    train_baseline,
)
from supsup_train.networks.models import Mlp

pytestmark = pytest.mark.slow

SIZES = [64, 48, 32, 10]
TASKS = 3
# Chance is 0.1. Seen with these settings: 0.88 to 0.96 for all, less where the trunk or the weights
# stay random (0.7 and more); what sequential learning forgets depends on the digits.
LEARNS: dict[BaselineMethod, float] = {
    "batche": 0.75,
    "batche-random": 0.6,
    "psp": 0.6,
    "heads": 0.6,
    "heads-random": 0.5,
    "dense": 0.8,
    "sequence": 0.3,
}


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_and_the_model_says_the_same(tmp_path: Path, method: BaselineMethod) -> None:
    rate = 1e-3 if method in {"dense", "psp", "sequence", "batche"} else None
    recipe = BaselineRecipe.of(method).with_options(steps=300, first_learning_rate=rate)
    if method in {"dense", "psp", "sequence"}:
        recipe = recipe.with_options(learning_rate=rate)
    stream = make_stream("permuted", load_dataset(None), num_tasks=TASKS)
    bank = train_baseline(
        make_baseline(recipe, Mlp(SIZES), input_shape=(64,)), stream, tmp_path / "bank"
    )
    model = load(export(bank, tmp_path / "out.onnx").path)
    known = []
    for index in range(TASKS):
        row = evaluate_task(model, stream.task(index, train=False), per_task=0)
        assert row["known"] == bank.task(index).training["accuracy"]  # torch = ONNX Runtime
        known.append(row["known"])
    assert sum(known) / TASKS >= LEARNS[method]


def test_batche_finds_the_task_in_all_ways(tmp_path: Path) -> None:
    """ABatchE by both rules, and one-shot over vectors and over rank-one matrices."""
    sizes = [64, 48, 32, 60]
    recipe = BaselineRecipe.of("batche").with_options(steps=300, first_learning_rate=1e-3)
    stream = make_stream("permuted", load_dataset(None), num_tasks=TASKS)
    found = {}
    for matrices in (False, True):
        baseline = make_baseline(recipe, Mlp(sizes), input_shape=(64,), matrices=matrices)
        bank = train_baseline(baseline, stream, tmp_path / f"bank-{matrices}")
        model = load(export(bank, tmp_path / f"{matrices}.onnx").path)
        methods = [Inference(method="one-shot")]
        if not matrices:
            methods += [
                Inference(method="exhaustive", score="entropy"),
                Inference(method="exhaustive", score="max-probability"),
            ]
        for method in methods:
            rows = [
                evaluate_task(model, stream.task(i, train=False), per_task=40, method=method)
                for i in range(TASKS)
            ]
            key = (matrices, method.method, method.score)
            found[key] = sum(row["inferred"] for row in rows) / TASKS
            assert all(row["unknown"] <= row["inferred"] for row in rows)
    assert found[False, "exhaustive", "entropy"] >= 0.6  # chance is 1 / 3
    assert found[False, "exhaustive", "max-probability"] >= 0.6
    assert found[True, "one-shot", None] >= 0.45  # two of its standard errors above chance
