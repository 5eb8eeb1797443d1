"""What a stopped command must leave: whole banks, stores and models, and itself repeatable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fuzz.case import read_files
from fuzz.stops import SIGNALS, TRACEBACK, Ended, Stop
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.console import INTERRUPTED
from supsup_runtime.errors import SupSupError
from supsup_runtime.hopfield.file import has_store, read_store

KINDS = ("lost", "damaged", "traceback", "status", "not repeatable", "other result", ".part left")
_REFUSALS = (1, 3)
"""Statuses of such a refusal."""
Files = Mapping[str, bytes]
Entries = Mapping[str, Mapping[str, str]]
"""Digest of each task's file, by bank and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A command that nothing stopped: files before and after it, its number of operations."""

    before: Files
    after: Files
    operations: int


def said_wrong(ended: Ended, stop: Stop) -> Iterator[str]:
    """Findings in how a stopped command ended."""
    if ended.status == TRACEBACK or "Traceback" in ended.text:
        yield f"traceback: {ended.text.strip().splitlines()[-1]:.100}"
        return
    stopped = {"kill": -9, "terminate": -15, "interrupt": INTERRUPTED}.get(stop.kind, 1)
    if ended.status not in {0, stopped}:
        yield f"status: {ended.status} after {stop.kind}: {ended.text.strip()[-100:]}"
    last = ended.text.rstrip().rpartition("\n")[2]
    if ended.status == 1 and stop.kind not in SIGNALS and not last.startswith("supsup-"):
        yield f"status: no line that says why: {last[:100]!r}"


def left_wrong(folder: Path, reference: Reference) -> Iterator[str]:
    """Findings in what lies there: tasks that were or are to be there, models, sidecars."""
    before, after = _entries(reference.before), _entries(reference.after)
    for name in before:
        yield from _bank_wrong(folder / name, before[name], after.get(name, {}))
    for name in ("out.onnx", "full.onnx"):
        yield from _model_wrong(folder / name, reference)


def _bank_wrong(folder: Path, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    try:
        bank = MaskBank.open(folder)
        bank.calibration()
        stored = set(read_store(bank).task_names) if has_store(bank) else set()
    except SupSupError as error:
        yield f"damaged: {error}"
        return
    now = {entry.name: entry.sha256 for entry in bank.entries}
    for name in before.keys() & after.keys():
        if now.get(name) not in {before[name], after[name]}:
            yield f"lost: {folder.name}: task {name}"
    gone = before.keys() - after.keys() - now.keys()
    renamed = after.keys() - before.keys() & now.keys()
    if gone and len(now) < min(len(before), len(after)) and not renamed:
        yield f"lost: {folder.name}: tasks {sorted(gone)}"
    if gone and has_store(bank) and not gone <= stored:
        yield f"lost: {folder.name}: tasks {sorted(gone - stored)} are neither in bank nor store"


def _model_wrong(path: Path, reference: Reference) -> Iterator[str]:
    sidecar = path.with_name(path.name + ".json")
    for file in (path, sidecar):
        data = file.read_bytes() if file.exists() else None
        allowed = {files.get(file.name) for files in (reference.before, reference.after)}
        if data not in allowed and not (file == sidecar and data is None):
            yield f"damaged: {file.name} is neither the old nor the new one"
            return
    if sidecar.exists() and path.exists():
        told = json.loads(sidecar.read_bytes())["org.supsup.model_sha256"]
        if told != hashlib.sha256(path.read_bytes()).hexdigest():
            yield f"damaged: {sidecar.name} describes another model"


def repeated_wrong(
    words: list[str], ended: Ended, folder: Path, reference: Reference
) -> Iterator[str]:
    """Findings after the same command was run again."""
    now = _steady(read_files(folder))
    wanted = _steady(reference.after)
    differing = sorted({*now, *wanted} - {n for n in now if now[n] == wanted.get(n)})
    parts = [name for name in now if name.endswith(".part")]
    if parts:
        yield f".part left: {_plain(parts[0])}"
    done = not differing and ended.status in _REFUSALS and _may_be_done(words)
    if ended.status and not done:
        yield f"not repeatable: {ended.text.strip()[-150:]}"
    elif set(differing) - set(parts):
        yield f"other result: {', '.join(sorted(set(differing) - set(parts)))[:150]}"


def _may_be_done(words: list[str]) -> bool:
    """Whether a command refuses to do again what is done, as its output or the name is there."""
    if words[0] == "supsup-export":
        return "--force" not in words
    return words[0] == "supsup-bank" or words[:2] == ["supsup-baseline", "psp"]


def _plain(name: str) -> str:
    """A temporary file's name without its random part."""
    head, _, _ = name.rpartition(".")
    return head.rpartition(".")[0] + ".*.part"


def _steady(files: Files) -> dict[str, object]:
    """Files but logs and reports, which have times; task files by the index: names may differ."""
    timed = ("train.jsonl", ".html")
    found: dict[str, object] = {n: d for n, d in files.items() if not n.endswith(timed)}
    for name in [name for name in files if name.endswith("/bank.json")]:
        index = json.loads(files[name])
        for task in index["tasks"]:
            found.pop(f"{name.removesuffix('bank.json')}{task.pop('file')}", None)
        found[name] = index
    return found


def _entries(files: Files) -> dict[str, dict[str, str]]:
    found = {}
    for name, data in files.items():
        if name.endswith("/bank.json"):
            tasks = json.loads(data)["tasks"]
            found[name.removesuffix("/bank.json")] = {t["name"]: t["sha256"] for t in tasks}
    return found
