"""Where the data lie that tests may use but the repository does not hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data(name: str) -> Path:
    """Path of a shared folder or file; skips the test, with the reason, where it is absent.

    Args:
        name: Such as ``mnist``; looked for in the folder that ``SUPSUP_DATA`` names, else in
            ``../shared/data`` beside the checkout.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("SUPSUP_DATA") or beside) / name
    if not path.exists():
        pytest.skip(f"no shared data at {path}; point SUPSUP_DATA at the folder that holds {name}")
    return path
