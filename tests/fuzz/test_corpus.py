"""What once failed: each case is refused or answered now."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from fuzz.campaign import FINE
from fuzz.case import read_case
from fuzz.judge import judge
from fuzz.targets import TARGETS, load_target

# commands leave streams to the collector, as their process would end
pytestmark = pytest.mark.filterwarnings("ignore")
CORPUS = Path(__file__).parent / "corpus"
CASES = sorted(path.stem for path in CORPUS.glob("*.zip") if path.stem != "seeds")


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The valid files of the time: those of today are others, and take seconds to make."""
    folder = tmp_path_factory.mktemp("corpus")
    with zipfile.ZipFile(CORPUS / "seeds.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_case_has_no_finding(name: str, seeds: Path, tmp_path: Path) -> None:
    target = load_target(TARGETS[name.partition("-")[0]].place)(seeds)
    verdict = judge(target, read_case(CORPUS / f"{name}.zip"), tmp_path, lambda _: None)
    assert verdict.kind in FINE, verdict
