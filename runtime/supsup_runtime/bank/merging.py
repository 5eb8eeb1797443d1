"""Tasks of other banks: checked together, then their files copied as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from supsup_runtime.bank.folder import files_in_use, read_task, write_task
from supsup_runtime.bank.index import MAX_TASKS, BankEntry
from supsup_runtime.bank.task import max_task_bytes
from supsup_runtime.errors import BankError

if TYPE_CHECKING:
    from supsup_runtime.bank.bank import MaskBank

MAX_THREADS = 16
"""Files copied at once: a file system syncs several in little more than the time of one."""
MAX_BYTES = 256 << 20
"""Largest task files copied at once, together."""


def check_others(
    folder: Path, others: Sequence[MaskBank], digest: str, newest: int, entries: Iterable[BankEntry]
) -> None:
    """Raise `BankError` unless tasks of `others` may be added to a bank, described by the rest."""
    owners = {entry.name.casefold(): folder for entry in entries}
    for other in others:
        if other.digest != digest:
            raise BankError(
                f"{other.path}: the bank belongs to another network: digest must be {digest}, got "
                f"{other.digest}; leave it out"
            )
        if other.format > newest:
            raise BankError(
                f"{other.path}: a bank of format {other.format} needs one of that format, got "
                f"{folder} of format {newest}; run supsup-bank upgrade {folder} first"
            )
        for entry in other.entries:
            name = entry.name.casefold()
            if name in owners:
                raise BankError(
                    f"{other.path}: task {entry.name!r} is in {owners[name]} already (names ignore "
                    "case); rename one with supsup-bank rename, or remove it"
                )
            owners[name] = other.path
    if len(owners) > MAX_TASKS:
        raise BankError(
            f"{folder}: a bank has at most {MAX_TASKS} tasks, got {len(owners)} with those to be "
            "merged; merge fewer banks"
        )


def copy_tasks(bank: MaskBank, others: Sequence[MaskBank]) -> list[BankEntry]:
    """Copy the task files of `others`, each checked in full, and return their entries in `bank`.

    Raises:
        BankError: If a file breaks a rule of docs/FORMAT.md; the copies so far are in no index.
    """
    used, network = files_in_use(bank.entries), bank.network

    def copy(job: tuple[MaskBank, BankEntry]) -> BankEntry:
        other, entry = job
        read = read_task(other.path, entry, network, bank.digest, other.format, intact=False)
        return write_task(bank.path, entry.name, read[0], used)

    jobs = [(other, entry) for other in others for entry in other.entries]
    threads = min(MAX_THREADS, max(1, MAX_BYTES // max_task_bytes(network)))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(copy, jobs))
