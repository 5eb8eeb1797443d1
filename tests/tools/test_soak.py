from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tools.soak import make_tiny

pytestmark = pytest.mark.slow


def test_eight_threads_get_the_answers_of_one(tmp_path: Path) -> None:
    """Run in its own process, because a race may end in a segmentation fault."""
    soak = Path(__file__).parents[2] / "tools" / "soak.py"
    words = [str(soak), *map(str, make_tiny(tmp_path)), "--calls", "5000", "--threads", "8"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.startswith("5000 calls, 0 wrong, 8 threads")
