"""Images of tasks, kept beside a bank to learn later tasks against (docs/FORMAT.md).

``memory/NAME.safetensors`` has those of a task, prepared. They are no part of any model.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from supsup_runtime.arrays import Floats
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.fields import canonical_json
from supsup_runtime.bank.index import check_new
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.bank.tensorfile import TensorFile, check_array
from supsup_runtime.errors import BankError
from supsup_runtime.files import (
    exclusive,
    inside,
    read_file,
    remove_parts,
    system_errors,
    write_whole,
)

MAX_BYTES = 1 << 30
"""Of the images of a task."""
_FOLDER, _ENDING = "memory", ".safetensors"
_FILE = TensorFile(
    kind="memory", formats={1: frozenset({"digest", "format", "task"})}, max_header=1000
)


def store_images(bank: MaskBank, task: TaskMasks, images: Floats) -> None:
    """Store images ``float32 (n, *input_shape)`` of a task; call this before you add it.

    Raises:
        BankError: If they have more than `MAX_BYTES`.
        FileError: If the system refuses, as on a full disk; then nothing is stored.
    """
    own = hashlib.sha256(bank.encode(task)).hexdigest()
    header = canonical_json({"digest": bank.digest, "format": 1, "task": own})
    path = _path(bank, task.name)
    with system_errors(path.parent, "created"):
        path.parent.mkdir(exist_ok=True)
    remove_parts(path.parent)
    data = _FILE.write({"images": images}, header, str(path))
    if len(data) > MAX_BYTES:
        raise BankError(f"{path}: must have at most {MAX_BYTES} bytes, got {len(data)}")
    write_whole(path, data)


def stored_images(bank: MaskBank, name: str) -> Floats | None:
    """Return the images of a task, ``float32 (n, *input_shape)``; None if there are none.

    Raises:
        BankError: If the file is damaged, or of another task or bank.
    """
    path, entry = _path(bank, name), bank.entries[bank.index(name)]
    if not path.exists():
        return None
    try:
        data = read_file(path, max_bytes=MAX_BYTES)
        return _checked(data, bank, entry.sha256, str(path))
    except BankError as error:
        raise BankError(f"{error}; or let supsup-bank forget the images of {name!r}") from error


def _checked(data: bytes, bank: MaskBank, task: str, place: str) -> Floats:
    tensors, header = _FILE.read(data, bank.digest, {1: ["images"]}, place)
    if header.get("task", str) != task:
        raise BankError(f"{place}: must be of the bank's task, is of another")
    images: Floats = tensors["images"]
    shape = (*images.shape[:1], *bank.network.input_shape)
    check_array(images, "<f4", shape, place=f"{place}: images")
    return images


def rename_task(bank: MaskBank, old: str, new: str) -> None:
    """Rename a task of a bank, and its images first, so that a kill loses none.

    Raises:
        BankError: As `MaskBank.rename`, or if the images are damaged.
    """
    images = stored_images(bank, old)
    if images is None:
        bank.rename(old, new)
        return
    check_new(bank.path, new, {name.casefold() for name in bank.task_names if name != old})
    copy = _path(bank, new)
    same = copy.exists() and copy.samefile(_path(bank, old))
    store_images(bank, bank.task(old).renamed(new), images)
    try:
        bank.rename(old, new)
    except BaseException:  # an interrupt, too: no copy without its task
        if not same:
            copy.unlink(missing_ok=True)
        raise
    if not same:
        forget_images(bank, old)


def image_bytes(bank: MaskBank) -> dict[str, int]:
    """Return the bytes of stored images by task; also of tasks that are not in the bank."""
    folder = inside(bank.path, _FOLDER)
    files = sorted(folder.glob(f"*{_ENDING}")) if folder.is_dir() else []
    return {path.name.removesuffix(_ENDING): path.lstat().st_size for path in files}


def forget_images(bank: MaskBank, *names: str) -> None:
    """Remove the images of tasks, if there are any.

    Raises:
        BankLockedError: If the bank cannot be locked.
    """
    with exclusive(bank.path):
        remove_parts(inside(bank.path, _FOLDER))
        for name in names:
            path = _path(bank, name)
            with system_errors(path, "removed"):
                path.unlink(missing_ok=True)


def _path(bank: MaskBank, name: str) -> Path:
    return inside(bank.path, f"{_FOLDER}/{name}{_ENDING}")
