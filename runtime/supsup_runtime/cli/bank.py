"""The command supsup-bank."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.fields import is_number
from supsup_runtime.bank.index import FORMAT
from supsup_runtime.bank.merging import check_others
from supsup_runtime.bank.stored_images import (
    forget_images,
    image_bytes,
    rename_task,
    stored_images,
)
from supsup_runtime.bank.task import equal_tasks
from supsup_runtime.console import Options, parser, print_result, to_path, to_table
from supsup_runtime.errors import InputError, SupSupError
from supsup_runtime.hopfield.file import has_store, read_store

_EXAMPLES = (
    "list masks/",
    "verify masks/",
    "add masks/ new-task.safetensors",
    "merge masks/ shard-1/ shard-2/",
    "remove masks/ rotated-090",
    "rename masks/ rotated-090 upright",
    "forget masks/",
    "upgrade masks/",
)


def run() -> None:
    """Run the command."""
    made = parser("supsup-bank", "List, verify or change the tasks of a mask bank.", _EXAMPLES)
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], None], name: str, text: str) -> Options:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.what_in.add_argument("bank", type=to_path, help="folder of the bank")
        sub.what_out.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub.what_in

    command(_list, "list", "List the tasks in index order.")
    command(_verify, "verify", "Check every file of the bank against the format.")
    add = command(_add, "add", "Add a task from a task file.")
    add.add_argument("file", type=to_path, help="task file of the same network")
    add.add_argument("--name", help="name of the task in this bank (default: the name in the file)")
    add.add_argument("--replace", action="store_true", help="replace a task of the same name")
    text = "Add the tasks of other banks, in order; a missing bank is made like the first."
    merge = command(_merge, "merge", text)
    text = "bank of the same network"
    merge.add_argument("others", type=to_path, nargs="+", metavar="other", help=text)
    remove = command(
        _remove, "remove", "Remove a task; the indices of later tasks decrease by one."
    )
    remove.add_argument("name", help="name of the task")
    rename = command(_rename, "rename", "Rename a task; its index does not change.")
    rename.add_argument("old", help="current name of the task")
    rename.add_argument("new", help="new name of the task")
    forget = command(
        _forget, "forget", "Remove the stored images of tasks; their masks stay (docs/FORMAT.md)."
    )
    text = "name of a task; repeatable (default: all, of tasks that were removed too)"
    forget.add_argument("names", nargs="*", metavar="TASK", help=text)
    command(_upgrade, "upgrade", "Write the bank in the newest format; tasks stay as they are.")
    arguments = made.parse_args()
    arguments.run(arguments)


def _list(arguments: argparse.Namespace) -> None:
    bank = MaskBank.open(arguments.bank, verify=False)
    images = image_bytes(bank)
    tasks = [_describe(bank, index, images) for index in range(len(bank))]
    rows = [
        (
            t["index"],
            t["name"],
            t["bytes"],
            "-" if t["density"] is None else f"{t['density']:.4f}",
            "-" if t["accuracy"] is None else t["accuracy"],
        )
        for t in tasks
    ]
    table = to_table(("index", "name", "bytes", "density", "accuracy"), rows)
    if images:
        table += f"\nstored images: {sum(images.values()):,} bytes, of {len(images)} tasks"
    print_result(tasks, as_json=arguments.json, text=table)


def _describe(bank: MaskBank, index: int, images: dict[str, int]) -> dict[str, Any]:
    task, entry = bank.task(index), bank.entries[index]
    accuracy = task.training.get("accuracy")  # of any type: for people
    return {
        "accuracy": accuracy if is_number(accuracy) else None,
        "bytes": (bank.path / entry.file).stat().st_size,
        "density": task.density(bank.network) if bank.network.parameters else None,
        "file": entry.file,
        "image_bytes": images.get(task.name, 0),
        "index": index,
        "labels": list(task.labels),
        "name": task.name,
        "sha256": entry.sha256,
    }


def _verify(arguments: argparse.Namespace) -> None:
    bank = MaskBank.open(arguments.bank)
    for entry in bank.entries:
        bank.read_task(bank.path / entry.file)  # also its own SHA-256
    bank.calibration()  # checks the optional calibration file
    if has_store(bank):
        read_store(bank)
    for name in filter(bank.__contains__, image_bytes(bank)):
        stored_images(bank, name)
    _warn_equal(bank)
    text = f"{bank.path}: {len(bank)} tasks, all files are valid"
    print_result({"ok": True, "num_tasks": len(bank)}, as_json=arguments.json, text=text)


def _add(arguments: argparse.Namespace) -> None:
    bank = MaskBank.open(arguments.bank, verify=False)
    if not arguments.file.exists():
        raise InputError(
            f"{arguments.file}: no such file; give a task file, as in the tasks/ folder of a bank"
        )
    task = bank.read_task(arguments.file)
    name = task.name if arguments.name is None else arguments.name
    task = task.renamed(name)
    if arguments.replace and name in bank:
        bank.replace(task)
        forget_images(bank, name)
    else:
        bank.add(task)
    _warn_equal(bank, name)
    _say_changed(bank, f"added {name!r}", arguments)


def _merge(arguments: argparse.Namespace) -> None:
    others = [MaskBank.open(path, verify=False) for path in arguments.others]
    path, first = arguments.bank, others[0]
    if (path / "bank.json").exists():
        bank = MaskBank.open(path, verify=False)
        bank.merge(*others)
    else:
        check_others(path, others, first.digest, FORMAT, ())  # before the folder is made
        there = path.exists()
        bank = MaskBank.create(path, first.network, forward=first.forward, gradient=first.gradient)
        try:
            bank.merge(*others)
        except BaseException:  # an interrupt, too: all tasks or no bank
            _remove_empty(bank, keep=there)
            raise
    _warn_equal(bank)
    count = sum(map(len, others))
    _say_changed(bank, f"added {count} tasks of {len(others)} banks", arguments)


def _remove_empty(bank: MaskBank, *, keep: bool) -> None:
    """Remove a bank without tasks, unless another command changes it; `keep` leaves its folder."""
    with suppress(SupSupError), bank.changing():
        if len(bank):
            return
        for path in bank.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not keep:
            bank.path.rmdir()


def _remove(arguments: argparse.Namespace) -> None:
    bank = MaskBank.open(arguments.bank, verify=False)
    bank.remove(arguments.name)
    forget_images(bank, arguments.name)
    _say_changed(bank, f"removed {arguments.name!r}", arguments)


def _rename(arguments: argparse.Namespace) -> None:
    bank = MaskBank.open(arguments.bank, verify=False)
    rename_task(bank, arguments.old, arguments.new)
    _say_changed(bank, f"renamed {arguments.old!r} to {arguments.new!r}", arguments)


def _forget(arguments: argparse.Namespace) -> None:
    bank = MaskBank.open(arguments.bank, verify=False)
    there = image_bytes(bank)
    names = arguments.names or list(there)
    if missing := [name for name in names if name not in there]:
        raise InputError(f"{bank.path}: has no images of task {missing[0]!r:.200}")
    forget_images(bank, *names)
    freed = {"bytes": sum(there[name] for name in {*names}), "tasks": names}
    text = f"{bank.path}: forgot the images of {len(names)} tasks, {freed['bytes']:,} bytes"
    print_result(freed, as_json=arguments.json, text=text)


def _upgrade(arguments: argparse.Namespace) -> None:
    bank = MaskBank.open(arguments.bank)
    before = bank.format
    bank.upgrade()
    _say_changed(bank, f"format {before} is now format {bank.format}", arguments)


def _warn_equal(bank: MaskBank, name: str | None = None) -> None:
    for first, other in equal_tasks(bank):
        if name in {None, first, other}:
            sys.stderr.write(
                f"supsup-bank: warning: tasks {first!r} and {other!r} have equal masks and state: "
                "inference cannot tell them apart; remove one\n"
            )


def _say_changed(bank: MaskBank, what: str, arguments: argparse.Namespace) -> None:
    index = (bank.path / "bank.json").read_bytes()
    value = {"num_tasks": len(bank), "sha256": hashlib.sha256(index).hexdigest()}
    text = f"{bank.path}: {what}; {len(bank)} tasks"
    print_result(value, as_json=arguments.json, text=text)
