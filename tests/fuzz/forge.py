"""Makes all digests of a changed bank true, as a forger would."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fuzz.mutate import dumped
from fuzz.tensors import sealed, split


def forge(files: dict[str, bytes]) -> None:
    """Sign the network, the files and what they say of each other, where that makes sense."""
    try:
        index = json.loads(files["bank.json"])
        _sign(files, index)
        files["bank.json"] = dumped(index)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return


def _sign(files: dict[str, bytes], index: dict[str, Any]) -> None:
    for entry in index["programs"].values():
        _sign_entry(files, entry)
    told = {"forward": index["programs"]["forward"]["sha256"], "network": index["network"]}
    index["digest"] = hashlib.sha256(dumped(told)).hexdigest()
    for name, data in list(files.items()):
        if name.endswith(".safetensors"):
            files[name] = _of_network(data, index["digest"])
    for entry in index["tasks"]:
        _sign_entry(files, entry)
    if "calibration.json" in files:
        files["calibration.json"] = _calibration(files["calibration.json"], index)


def _sign_entry(files: dict[str, bytes], entry: dict[str, str]) -> None:
    if entry["file"] in files:
        entry["sha256"] = hashlib.sha256(files[entry["file"]]).hexdigest()


def _of_network(file: bytes, digest: str) -> bytes:
    """The same file for a network; one that is damaged, or not ours, stays."""
    try:
        header, data = split(file)
        told = json.loads(header["__metadata__"]["supsup"])
        if told["digest"] == digest:
            return file
        return sealed(header, {**told, "digest": digest}, data)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return file


def _calibration(file: bytes, index: dict[str, Any]) -> bytes:
    try:
        value = json.loads(file)
        tasks = [{key: entry[key] for key in ("name", "sha256")} for entry in index["tasks"]]
        return dumped({**value, "digest": index["digest"], "tasks": tasks})
    except (KeyError, TypeError, ValueError, RecursionError):
        return file
