"""What is installed: this package's version, and the packages of its extras."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

UNKNOWN = "0+unknown"


def version() -> str:
    """Return the version of supsup; in a checkout that is not installed, its project's.

    `UNKNOWN` if neither says it.
    """
    try:
        return metadata.version("supsup")
    except metadata.PackageNotFoundError:
        pass
    import tomllib  # rarely needed

    try:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
        return str(project["project"]["version"])
    except (OSError, KeyError, ValueError):
        return UNKNOWN


def explained(error: ModuleNotFoundError, package: str, extra: str) -> ModuleNotFoundError:
    """Return what to raise where the import of `package` failed: which extra it needs."""
    if error.name is None or error.name.startswith("supsup"):  # a defect of ours
        return error
    name = error.name.partition(".")[0]
    text = f"{package} needs {name}, which is not installed; pip install 'supsup[{extra}]'"
    return ModuleNotFoundError(text, name=name)
