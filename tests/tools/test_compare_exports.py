"""The comparison names models that differ and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tools.compare_exports import differences
from tools.revision import ROOT

from banks import make_bank

pytestmark = pytest.mark.slow


def test_a_changed_model_and_a_refusal_are_named(tmp_path: Path) -> None:
    make_bank(tmp_path / "masks", "mlp-7-9", outputs=5, real_outputs=3, tasks=1)
    bank = ["--bank", str(tmp_path / "masks")]
    requests = {
        "all": bank,
        "logits": [*bank, "--graph-outputs", "logits"],
        "none": [*bank, "--task", "no-such-task"],
    }
    here, there = differences(requests, ROOT, tmp_path), tmp_path / "there"
    assert len(here) == 1
    assert "none: refused: supsup-export: task 'no-such-task'" in here[0]
    for folder in ("runtime", "export"):
        shutil.copytree(ROOT / folder, there / folder)
    compose = there / "export" / "supsup_export" / "bank_model" / "compose.py"
    compose.write_text(compose.read_text().replace('name="task_scores"', 'name="scores_of_tasks"'))
    found = differences(requests, there, tmp_path)
    assert [line.partition(":")[0] for line in found] == ["all", "none"]
