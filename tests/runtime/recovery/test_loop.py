"""Looks at where a mask would settle, and what follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from patterns import flipped
from stores import flat_mask, images, store_bank, stream
from supsup_export.exporter import export_recovery
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.hopfield.store import to_pattern
from supsup_runtime.recovery.descent import Recovery
from supsup_runtime.recovery.loop import Recovering
from supsup_runtime.recovery.model import HopfieldModel, load_hopfield


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> MaskBank:
    folder = tmp_path_factory.mktemp("looks")
    return store_bank(folder / "masks", entropy=2.0)  # nats: more than five outputs can have


@pytest.fixture(scope="module")
def model(bank: MaskBank) -> HopfieldModel:
    return load_hopfield(export_recovery(bank, bank.path.parent / "recover.onnx").path)


def test_a_look_ends_it_where_the_mask_would_settle(model: HopfieldModel, bank: MaskBank) -> None:
    """From the mask of one task, a few bits off, after one step that moves next to nothing."""
    start = flipped(to_pattern(flat_mask(bank, 1)), 0.05)
    still = Recovery(start=start, step_size=1e-6)
    batches = [images(64, seed) for seed in range(6)]
    found = model.recover(batches, settings=still)
    assert (found.verdict, found.task, found.steps) == ("stored", model.tasks[1], 1)
    assert (found.looked, found.converged_after, found.trace.converged_after) == (True, 1, None)
    assert found.trace.distance[1] == found.trace.distance[0] > 0.02  # from there it settled
    assert "found by a look after step 1, " in found.reason
    np.testing.assert_array_equal(found.mask, flat_mask(bank, 1))
    assert model.recover(batches, settings=replace(still, look_every=4)).steps == 4
    without = model.recover(batches, settings=replace(still, look_every=0))
    assert (without.steps, without.verdict) == (6, "not-converged")
    taken = stream(18)  # batches of 4 rows: 16 of them are 64
    assert model.recover(taken, steps=18, settings=still).steps == 16
    assert len(list(taken)) == 2


def test_a_look_that_ends_it_is_not_taken_twice(
    model: HopfieldModel, bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result has the look's own mask, owners and entropy."""
    names = ("settle", "owners", "logits")
    spies = {name: Mock(wraps=getattr(model._graph, name)) for name in names}
    for name, spy in spies.items():
        monkeypatch.setattr(model._graph, name, spy)
    still = Recovery(start=to_pattern(flat_mask(bank, 1)), step_size=1e-6)
    assert model.recover([images(64)], settings=still).looked
    assert [spy.call_count for spy in spies.values()] == [1, 1, 1]


def test_a_look_ends_nothing_that_does_not_fit(tmp_path: Path) -> None:
    """The entropy of the last inputs is not the task's, or the task's own is not known."""
    batches = [images(64, seed) for seed in range(3)]
    for name, entropy, verdict in (("low", 1e-3, "not-converged"), ("none", None, "stored")):
        bank = store_bank(tmp_path / name, entropy=entropy)
        export_recovery(bank, tmp_path / f"{name}.onnx")
        start = to_pattern(flat_mask(bank, 0))
        found = load_hopfield(tmp_path / f"{name}.onnx").recover(
            batches, settings=Recovery(start=start, step_size=1e-6)
        )
        assert (found.steps, found.verdict, found.looked) == (3, verdict, False)
        assert ("was not recorded" in found.reason) == (entropy is None)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"restart_every": 3}, [(0, 8), (1, 8), (2, 8), (0, 5), (1, 5), (2, 5), (0, 2), (1, 2)]),
        ({"restart_every": 5}, [*((t, 8) for t in range(5)), (0, 3), (1, 3), (2, 3)]),
        ({"restart_every": 6}, [(t, 8) for t in range(8)]),  # 2 steps are too few to begin anew
        ({"restart_every": 0}, [(t, 8) for t in range(8)]),
        ({"restart_every": 3, "look_every": 0}, [(t, 8) for t in range(8)]),
    ],
)
def test_a_descent_in_vain_begins_anew(
    tmp_path: Path, options: dict[str, int], shares: list[tuple[int, int]]
) -> None:
    """With what is left of the stream, from the same scores, by the same schedule."""
    bank = store_bank(tmp_path / "masks", entropy=1e-9)  # which no stream has
    export_recovery(bank, tmp_path / "recover.onnx")
    model, asked = load_hopfield(tmp_path / "recover.onnx"), []

    def schedule(step: int, steps: int) -> tuple[float, float]:
        asked.append((step, steps))
        return 1.0, 1.0

    batches = [images(16)] * 8
    how = Recovery(**options)  # type: ignore[arg-type]  # these are integers
    found = model.recover(batches, schedule=schedule, settings=how)
    assert (asked, found.steps, found.verdict) == (shares, 8, "not-converged")
    firsts = [row for row, (step, _) in enumerate(shares) if step == 0]
    assert len(set(found.trace.energy[firsts])) == 1  # of the same mask
    assert len(set(found.trace.energy)) > 1


def test_what_is_found_of_a_mask_stays_and_the_rest_begins_anew(
    model: HopfieldModel, bank: MaskBank
) -> None:
    """One layer at a task's mask, a few bits off, the other somewhere: once, for it is a guess."""
    first, second = model._graph.parts
    pattern = to_pattern(flat_mask(bank, 1))
    somewhere = 5 * np.random.default_rng(3).standard_normal(33).astype(np.float32)
    assert not set.intersection(*model._graph.owners(np.concatenate([pattern[:65], somewhere]) > 0))
    scores = np.concatenate([3 * flipped(pattern[first], 0.05), somewhere])
    way = Recovering(model._graph, scores, Recovery())
    way._descent.scores[second] += 1
    assert not way.look()
    np.testing.assert_allclose(way._descent.scores[first], 3 * pattern[first], rtol=1e-6)
    np.testing.assert_array_equal(way._descent.scores[second], somewhere)  # the start
    way._descent.scores[second] += 1
    assert not way.look()
    np.testing.assert_array_equal(way._descent.scores[second], somewhere + 1)  # goes on
