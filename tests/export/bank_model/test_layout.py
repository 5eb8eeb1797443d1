from __future__ import annotations

from pathlib import Path

import numpy as np

from supsup_export.bank_model.layout import lay_out
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import make_task


def test_ones_are_counted_above_255_tasks(tmp_path: Path, network: Network) -> None:
    bank = MaskBank.create(tmp_path / "b", network, forward=b"forward", gradient=b"gradient")
    ones = {p.name: np.ones(p.shape, np.bool_) for p in network.parameters}
    bank.extend(make_task(f"task-{i}", ones) for i in range(257))
    counts = lay_out(bank).counts
    assert counts.dtype == np.uint16
    assert (counts == 257).all()
