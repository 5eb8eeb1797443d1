"""Where a loaded model comes from, so that pickling it means to load the same file again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.model.protobuf import open_file

Identity = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A model file as it was loaded.

    Attributes:
        file: Absolute path.
        identity: `identify`.
        options: Arguments of the loader, besides the path.
        digest: SHA-256 of the content; empty until somebody asks, because it takes up to a fifth of
            the time of loading.
    """

    file: Path
    identity: Identity
    options: dict[str, Any]
    digest: str = field(default="", compare=False)

    def looked_at(self) -> Origin | None:
        """Return the file as it is now, with its digest; None if its content has changed.

        Raises:
            ModelError: If it cannot be read.
        """
        now = identify(self.file)
        if now == self.identity and self.digest:
            return self
        digest = _digest(self.file)
        unchanged = self.digest == digest or now == self.identity == identify(self.file)
        return replace(self, identity=now, digest=digest) if unchanged else None

    def reduced(self, loader: Callable[..., Any]) -> tuple[Any, ...]:
        """Return what ``__reduce__`` of a model that `loader` made returns.

        Raises:
            InputError: If the model was loaded with `sess_options`.
            ModelError: If the file has changed.
        """
        if self.options.get("sess_options") is not None:
            raise InputError(
                f"{self.file}: a model loaded with sess_options cannot be pickled or copied; "
                "load it with threads, or load it again where it is needed"
            )
        digest = _digest(self.file)
        if identify(self.file) != self.identity:
            raise ModelError(
                f"{self.file}: the file has changed since the model was loaded, so it cannot be "
                "pickled or copied; load it again"
            )
        return _load_again, (loader, str(self.file), digest, self.options)


def identify(file: Path) -> Identity:
    """Return what differs between a file and one that replaced it, or nothing without a file."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _load_again(
    loader: Callable[..., Any],
    path: str,
    digest: str,
    options: dict[str, Any],
) -> Any:  # noqa: ANN401 - what the loader returns
    file = Path(path)
    before = identify(file)
    got = _digest(file)
    if got != digest:
        raise ModelError(
            f"{file}: the file is not the one of the pickled model: SHA-256 must be {digest}, got "
            f"{got}; copy that file here, or load the model again"
        )
    model = loader(file, **options)
    if identify(file) != before:
        raise ModelError(f"{file}: the file was replaced while it was loaded; load it again")
    return model


def _digest(file: Path) -> str:
    with open_file(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
