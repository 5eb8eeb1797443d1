from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from banks import make_bank
from runtime.model.test_metadata import INFO
from supsup_export import Request, export
from supsup_runtime import load
from supsup_runtime.errors import ModelError
from supsup_runtime.memory import available_bytes
from supsup_runtime.model.loading import bytes_to_load, unfit_for
from supsup_runtime.model.session import Session, open_session


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  9000 kB\nMemAvailable:   5000 kB\nCached: 7 kB\n")
    return path


def group(folder: Path, limit: str, used: str, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(used + "\n")
    (folder / "memory.stat").write_text(f"anon 5\nactive_file {cached}\ninactive_file 0\n")


def old_group(folder: Path, limit: int, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    text = f"active_file 1\ntotal_active_file {cached}\ntotal_inactive_file 0\n"
    (folder / "memory.stat").write_text(text)


def own(folder: Path, text: str) -> Path:
    path = folder / "own"
    path.write_text(text)
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
    group(tmp_path, limit, used, cached=400)
    assert available_bytes(meminfo, tmp_path, tmp_path / "none") == expected
    assert available_bytes(meminfo, tmp_path, own(tmp_path, "0::/\n")) == expected


def test_the_limits_of_the_process_s_own_group_and_all_above(meminfo: Path, tmp_path: Path) -> None:
    mine = own(tmp_path, "0::/user/app.scope\n")
    group(tmp_path / "user" / "app.scope", "200000", "50000", cached=7)
    assert available_bytes(meminfo, tmp_path, mine) == 150_007
    group(tmp_path / "user", "100000", "60000")
    assert available_bytes(meminfo, tmp_path, mine) == 40_000
    group(tmp_path, "30000", "29999")
    assert available_bytes(meminfo, tmp_path, mine) == 1
    group(tmp_path / "user" / "other", "0", "0")
    assert available_bytes(meminfo, tmp_path, mine) == 1


def test_limits_of_version_1(meminfo: Path, tmp_path: Path) -> None:
    mine = own(tmp_path, "3:cpu:/other\n5:memory,x:/docker/abc\n1:name=systemd:/\n0::/\n")
    old_group(tmp_path / "memory" / "docker", 2**63 - 4096, 1)
    assert available_bytes(meminfo, tmp_path, mine) == 5000 * 1024
    old_group(tmp_path / "memory", 3000, 1000, cached=5)  # what a container sees of its own group
    assert available_bytes(meminfo, tmp_path, mine) == 2005
    old_group(tmp_path / "memory" / "docker" / "abc", 1000, 100)
    assert available_bytes(meminfo, tmp_path, mine) == 900


def test_a_group_outside_of_the_namespace_is_not_looked_for(meminfo: Path, tmp_path: Path) -> None:
    group(tmp_path / "up", "1", "0")
    group(tmp_path / "mount", "77", "0")
    mine = own(tmp_path, "0::/../up\n")
    assert available_bytes(meminfo, tmp_path / "mount", mine) == 77


def test_where_nothing_is_known(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "none", tmp_path, tmp_path / "none") is None
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path, tmp_path / "none") is None


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


def test_two_bits_are_not_for_cuda() -> None:
    """It would read them as four; models without codes are fit."""
    cuda = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert unfit_for(INFO, cuda) == (
        "target must be cuda or portable for CUDAExecutionProvider, which has no kernel for 2 "
        "bits, got cpu; export the bank again with --target cuda"
    )
    assert unfit_for(INFO, cuda[1:]) == ""
    known = replace(INFO, mode="known", objective="")
    for info in (known, replace(INFO, target="cuda"), replace(INFO, target="portable")):
        assert unfit_for(info, cuda) == ""
