"""Another revision of this project beside the present one, to compare them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check a revision out into a folder of its own, for as long as the block runs."""
    with TemporaryDirectory() as folder:
        tree = str(Path(folder) / "tree")
        _git("worktree", "add", "--quiet", "--detach", tree, revision)
        try:
            yield Path(tree)
        finally:
            _git("worktree", "remove", "--force", tree)


def environment(root: Path) -> dict[str, str]:
    """Variables with which Python imports supsup from a checkout, whatever is installed."""
    roots = [str(root / folder) for folder in ("runtime", "export", "train")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True)  # noqa: S607 - the user's git
