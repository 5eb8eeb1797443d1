"""Flags of the exporter that are neither true nor false."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from supsup_export import export, export_recovery, export_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import BankError, InputError


@pytest.mark.parametrize("flag", ["check", "sidecar", "force"])
@pytest.mark.parametrize("value", [np.array([0, 1]), 1, "no", None])
def test_flags_are_true_or_false(bank: MaskBank, tmp_path: Path, flag: str, value: object) -> None:
    how = {flag: value}
    for call in (
        lambda: export(bank, tmp_path / "a.onnx", **how),  # type: ignore[arg-type]
        lambda: export_recovery(bank, tmp_path / "a.onnx", **how),  # type: ignore[arg-type]
        lambda: export_task(bank, "task-0", tmp_path / "a.onnx", **how),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=f"^{flag} must be True or False, got "):
            call()
    with pytest.raises(InputError, match=r"^stream must be True or False, got array"):
        export_recovery(bank, tmp_path / "a.onnx", stream=np.array([0, 1]))  # type: ignore[arg-type]
    with pytest.raises(BankError, match=r"^verify must be True or False, got "):
        MaskBank.open(bank.path, verify=value)  # type: ignore[arg-type]
    assert not (tmp_path / "a.onnx").exists()
