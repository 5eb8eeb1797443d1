"""Check out another revision of this project to compare with."""

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
    """Check out a revision into a temporary folder while the block runs."""
    with TemporaryDirectory() as folder:
        tree = str(Path(folder) / "tree")
        _git("worktree", "add", "--quiet", "--detach", tree, revision)
        try:
            yield Path(tree)
        finally:
            _git("worktree", "remove", "--force", tree)


def environment(root: Path) -> dict[str, str]:
    """Return variables that make Python import supsup from a checkout."""
    roots = [str(root / folder) for folder in ("runtime", "export", "train")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True)  # noqa: S607 - the user's git
