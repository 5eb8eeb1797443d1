from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from banks import make_bank
from runtime.model.test_metadata import INFO
from supsup_export import Request, export
from supsup_runtime import load
from supsup_runtime.errors import ModelError
from supsup_runtime.model.loading import bytes_to_load
from supsup_runtime.model.memory import available_bytes
from supsup_runtime.model.session import Session, open_session


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  9000 kB\nMemAvailable:   5000 kB\nCached: 7 kB\n")
    return path


def test_the_machine_s_memory(meminfo: Path, tmp_path: Path) -> None:
    assert available_bytes(meminfo, tmp_path) == 5000 * 1024


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        ("4000000", "1000000", 3000400),
        ("max", "1000000", 5000 * 1024),
        ("9000000000", "400", 5000 * 1024),
        ("1000", "2000", 0),
        ("max", "what", 5000 * 1024),
    ],
)
def test_the_container_s_limit(
    meminfo: Path, tmp_path: Path, limit: str, used: str, expected: int
) -> None:
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    (tmp_path / "memory.stat").write_text("anon 5\nactive_file 300\ninactive_file 100\n")
    assert available_bytes(meminfo, tmp_path) == expected


def test_where_nothing_is_known(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "none", tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) is None


def test_what_loading_takes_depends_on_the_codes() -> None:
    known = replace(INFO, mode="known", objective="")
    sizes = [
        bytes_to_load(info, 1_000_000)
        for info in (known, INFO, replace(INFO, target="cuda"), replace(INFO, target="portable"))
    ]
    assert sizes[0] < sizes[3] < sizes[1] < sizes[2]
    assert sizes[1][0] - sizes[3][0] == 4_000_000


def test_what_stays_is_at_most_the_peak() -> None:
    for info in (INFO, replace(INFO, target="cuda"), replace(INFO, mode="known", objective="")):
        for file_bytes in (1_000, 1_000_000, 1_000_000_000):
            peak, resident = bytes_to_load(info, file_bytes)
            assert file_bytes < resident <= peak
        assert resident < peak
    assert bytes_to_load(INFO, 1_000_000_000)[1] > 4_500_000_000


def test_a_file_replaced_while_it_is_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata would be of one model and its graph of another."""
    path, other = tmp_path / "out.onnx", tmp_path / "other.onnx"
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    export(bank, path)
    export(bank, other, request=Request(outputs=("logits",)))

    def replaced_first(model: Path | bytes, *, place: str) -> Session:
        if other.exists():
            other.replace(path)
        return open_session(model, place=place)

    monkeypatch.setattr("supsup_runtime.model.loading.open_session", replaced_first)
    with pytest.raises(ModelError, match=r"file was replaced while it was loaded; load"):
        load(path)
    assert load(path).info.mode == "known"
