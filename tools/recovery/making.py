"""Banks and models of a seed: learned, encoded, their masks deleted, exported; each once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tools.recovery.setting import Setting

from supsup_export.recovery_model.step import compose_recovery
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.files import whole_file
from supsup_runtime.hopfield.store import HopfieldStore

__all__ = ["left_out_model", "stored_model", "trained_bank"]


def trained_bank(setting: Setting, data: str, seed: int, folder: Path) -> MaskBank:
    """The bank of a seed with all masks, gone on with where learning stopped.

    Raises:
        InputError: If `supsup-train` fails; it says why on stderr.
    """
    path = folder / "trained"
    _command("supsup-train", *setting.training(data, seed, path))
    return MaskBank.open(path)


def stored_model(bank: MaskBank, folder: Path) -> Path:
    """The model that recovers a bank's masks, made from a copy that has none left.

    Raises:
        InputError: If `supsup-hopfield` or `supsup-export` fails, or a mask is left.
    """
    model, stored = folder / "recover.onnx", folder / "stored"
    if not stored.exists():
        part = folder / "stored.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(bank.path, part)
        _command("supsup-hopfield", "encode", "--bank", str(part), "--delete-masks")
        part.rename(stored)
    left = MaskBank.open(stored)
    if len(left):
        raise InputError(f"{stored}: must have no mask left, got {left.task_names}; remove it")
    if not model.exists():
        _command("supsup-export", "--hopfield", "--bank", str(stored), str(model))
    return model


def left_out_model(bank: MaskBank, name: str, path: Path) -> Path:
    """Write the model of a store of all tasks of a bank but one."""
    store = HopfieldStore(bank.network, bank.digest)
    for task in bank:
        if task.name != name:
            store.encode(task)
    model = compose_recovery(bank, store)
    with whole_file(path) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _command(name: str, *arguments: str) -> None:
    """Run an installed command; what it prints goes to stderr, as stdout is for the tables."""
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *arguments], check=False, stdout=subprocess.PIPE, text=True)
    sys.stderr.write(done.stdout)
    if done.returncode:
        raise InputError(
            f"{name} ended with status {done.returncode}, its message is above; once that is "
            "settled, the same command goes on"
        )
