"""The mask bank: a folder with one network, its programs and its tasks (docs/FORMAT.md).

Interrupted changes leave a bank that opens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from supsup_runtime.arrays import (
    about,
    check_flag,
    check_kind,
    checked_index,
    checked_path,
    few,
    shown,
)
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.calibration_file import (
    StoredCalibration,
    read_calibration,
    write_calibration,
)
from supsup_runtime.bank.folder import (
    create_files,
    files_in_use,
    read_entry,
    read_task,
    remove_leftovers,
    write_task,
)
from supsup_runtime.bank.index import (
    FORMAT,
    BankEntry,
    BankIndex,
    check_new,
    read_index,
    write_index,
)
from supsup_runtime.bank.merging import check_others, copy_tasks
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.stored import with_stored
from supsup_runtime.bank.task import (
    TaskMasks,
    decode_task,
    encode_task,
    max_task_bytes,
    name_of,
)
from supsup_runtime.errors import BankError
from supsup_runtime.files import exclusive, inside, read_file

MAX_PROGRAM_BYTES = 1 << 30


class MaskBank:
    """An open bank; changing it raises `BankLockedError` while another process writes.

    Attributes:
        path: Folder of the bank.
        network: Network that all tasks share.
        digest: `Network.digest`, which every task file repeats.
        format: 1 or 2; see `upgrade`.
        objectives: Objectives that `gradient` differentiates.
        forward: Forward program, an ONNX model.
        gradient: Gradient program, or None.
    """

    def __init__(
        self, path: Path, index: BankIndex, forward: bytes, gradient: bytes | None
    ) -> None:
        self.path = path
        self.network = index.network
        self.digest = index.digest
        self.objectives = index.objectives
        self.forward = forward
        self.gradient = gradient
        self._index = index

    @property
    def format(self) -> int:
        """Format of the index, and the newest of task files."""
        return self._index.format

    @property
    def revision(self) -> str:
        """Hexadecimal SHA-256 of the network and all tasks, as the bank was last read.

        Models have it too (docs/CONTRACT.md), so equal ones say that a model is of this bank.
        """
        return self._index.revision

    @classmethod
    def create(
        cls,
        path: str | Path,
        network: Network,
        *,
        forward: bytes,
        gradient: bytes | None = None,
    ) -> MaskBank:
        """Create a bank without tasks.

        Args:
            path: A folder that is missing, empty, or left by an interrupted `create`.
            network: Network of the tasks.
            forward: ONNX model ``(x, parameters..., state...) -> logits``.
            gradient: ONNX model of the objectives' derivatives.

        Raises:
            OutputExistsError: If the folder has other content.
            BankLockedError: If another process is creating a bank there.
        """
        folder = checked_path(path, error=BankError)
        check_kind("network", network, Network, "a Network", error=BankError)
        for what, program in (("forward", forward), ("gradient", gradient)):
            if program is not None or what == "forward":
                check_kind(what, program, bytes, "bytes of an ONNX model", error=BankError)
        return cls(folder, create_files(folder, network, forward, gradient), forward, gradient)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> MaskBank:
        """Open a bank.

        Args:
            path: Folder of the bank.
            verify: Check every task file too.

        Raises:
            BankError: If a rule of docs/FORMAT.md is broken; the message names file and rule.
        """
        folder = checked_path(path, error=BankError)
        check_flag("verify", verify, error=BankError)
        index = read_index(folder)
        try:
            return cls._opened(folder, index, verify=verify)
        except BankError:
            now = read_index(folder, index)
            if now is index:
                raise
            return cls._opened(folder, now, verify=verify)  # it changed meanwhile

    @classmethod
    def _opened(cls, folder: Path, index: BankIndex, *, verify: bool) -> MaskBank:
        forward = read_entry(folder, index.programs["forward"], MAX_PROGRAM_BYTES)
        entry = index.programs.get("gradient")
        gradient = read_entry(folder, entry, MAX_PROGRAM_BYTES) if entry else None
        digest = index.network.digest(forward)
        if digest != index.digest:
            raise BankError(
                f"{folder / 'bank.json'}: digest must be {digest} for this network and forward "
                f"program, got {index.digest}"
            )
        index = replace(index, network=with_stored(folder, index.network, digest))
        bank = cls(folder, index, forward, gradient)
        if verify:
            bank.verify()
        return bank

    @property
    def entries(self) -> tuple[BankEntry, ...]:
        """Index entries, in task order."""
        return self._index.entries

    @property
    def task_names(self) -> tuple[str, ...]:
        """Task names, in index order."""
        return tuple(entry.name for entry in self.entries)

    def __repr__(self) -> str:
        tasks = f"{len(self)} tasks: {few(self.task_names)}" if len(self) else "no tasks"
        return about(self, shown(str(self.path)), tasks, repr(self.network))

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._index.positions

    def __iter__(self) -> Iterator[TaskMasks]:
        return (self.task(index) for index in range(len(self)))

    def task(self, key: int | str) -> TaskMasks:
        """Read and check a task by name or index, as it is on disk now.

        Raises:
            BankError: If it does not exist or breaks a rule.
        """
        entry, index = self.entries[self.index(key)], self._index
        while True:
            try:
                return self._read_task(entry, index.format)
            except BankError as error:
                index = read_index(self.path, self._index)
                now = next((other for other in index.entries if other.name == entry.name), None)
                if now == entry:
                    raise
                if now is None:
                    raise BankError(
                        f"{self.path}: task {entry.name!r} was removed or renamed since the bank "
                        "was opened; open it again"
                    ) from error
                entry = now

    def read_task(self, path: str | Path) -> TaskMasks:
        """Read and check a task file that may be added to this bank, or raise `BankError`."""
        file = checked_path(path, error=BankError)
        data = read_file(file, max_bytes=max_task_bytes(self.network), links=True)
        return decode_task(data, self.network, self.digest, place=str(path), newest=self.format)

    def encode(self, task: TaskMasks) -> bytes:
        """Return the bytes of a task's file in this bank, or raise `BankError`."""
        return encode_task(task, self.network, self.digest, version=self.format)

    def _read_task(self, entry: BankEntry, newest: int) -> TaskMasks:
        return read_task(self.path, entry, self.network, self.digest, newest, intact=True)[1]

    def index(self, key: int | str) -> int:
        """Return a task's index, given its name or a non-negative index.

        Raises:
            BankError: If the task does not exist.
        """
        if isinstance(key, str):
            position = self._index.positions.get(key)
            if position is None:
                raise BankError(
                    f"{self.path}: no task {shown(key)} among its {len(self)}; "
                    "list them with supsup-bank list"
                )
            return position
        return checked_index(f"{self.path}: task index", key, len(self), error=BankError)

    def verify(self) -> None:
        """Read and check every task.

        Raises:
            BankError: At the first broken rule.
        """
        for index in range(len(self)):
            self.task(index)

    def add(self, task: TaskMasks) -> None:
        """Append a task: first its file, then the index.

        Raises:
            BankError: If the name is taken, or the task does not fit.
        """
        self.extend([task])

    def extend(self, tasks: Iterable[TaskMasks]) -> None:
        """Append tasks and write the index once; a failure keeps those before it.

        Raises:
            BankError: If a name is taken, or a task does not fit.
        """
        check_kind("tasks", tasks, Iterable, "TaskMasks in a list or the like", error=BankError)
        with self.changing():
            entries, used = list(self.entries), files_in_use(self.entries)
            taken = {entry.name.casefold() for entry in entries}
            try:
                for task in tasks:
                    check_new(self.path, name_of(task), taken)
                    entries.append(write_task(self.path, task.name, self.encode(task), used))
                    taken.add(task.name.casefold())
            finally:
                self._write_entries(tuple(entries))

    def merge(self, *others: MaskBank) -> None:
        """Append the tasks of other banks, in order: all of them, or none if anything fails.

        Args:
            *others: Banks of the same network. Only their tasks are added: no calibration, no
                Hopfield store.

        Raises:
            BankError: If a network, format or task does not fit, a name is taken or twice among
                them, or the tasks are too many.
        """
        for other in others:
            check_kind("bank to merge", other, MaskBank, "a MaskBank", error=BankError)
        with self.changing():
            check_others(self.path, others, self.digest, self.format, self.entries)
            self._write_entries((*self.entries, *copy_tasks(self, others)))

    def replace(self, task: TaskMasks) -> None:
        """Replace the task of the same name.

        Raises:
            BankError: If it does not exist, or the new one does not fit.
        """
        with self.changing():
            self._exchange(self.index(name_of(task)), task)

    def rename(self, old: str, new: str) -> None:
        """Rename a task; its index, masks and state stay.

        Raises:
            BankError: If `old` does not exist, or `new` is taken or invalid.
        """
        with self.changing():
            position = self.index(old)
            taken = {name.casefold() for name in self.task_names if name != old}
            check_new(self.path, new, taken)
            self._exchange(position, self.task(position).renamed(new))

    def remove(self, *names: str, check: Callable[[], None] = lambda: None) -> None:
        """Remove tasks: first from the index, then their files. Later tasks move up.

        Args:
            *names: Task names.
            check: Called with the lock held; if it raises, nothing is removed.

        Raises:
            BankError: If a task does not exist.
        """
        with self.changing():
            gone = {self.index(name) for name in names}
            check()
            self._write_entries(tuple(e for i, e in enumerate(self.entries) if i not in gone))

    def upgrade(self) -> None:
        """Write the index in the newest format; task files stay as they are."""
        with self.changing():
            if self.format != FORMAT:
                self._index = write_index(self.path, replace(self._index, format=FORMAT))

    def calibration(self) -> StoredCalibration | None:
        """Return the calibration, compared with the tasks on disk, or None.

        Raises:
            BankError: If the file breaks a rule, or belongs to another bank.
        """
        now = read_index(self.path, self._index).entries
        return read_calibration(self.path, self.digest, now)

    def set_calibration(self, calibration: Calibration) -> None:
        """Store a calibration measured on `entries`.

        Raises:
            BankError: If the tasks have changed since the bank was opened.
        """
        check_kind("calibration", calibration, Calibration, "a Calibration", error=BankError)
        measured, told = self.entries, "tasks changed while they were measured"
        with self.changing():
            if self.entries != measured:
                raise BankError(f"{self.path}: {told}; export the bank and calibrate again")
            write_calibration(self.path, calibration, self.digest, measured)

    def check_lock(self) -> None:
        """Take the lock and leave it, before long work whose result is stored; see `changing`."""
        with self.changing():
            pass

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the writer's lock, with `entries` read again.

        At the end, even after an error, leftovers of writers and unindexed task files are removed.

        Raises:
            BankError: If the bank has another network now, or breaks a rule.
            BankLockedError: If the lock is taken, or the file system has none.
        """
        with exclusive(self.path):
            index = read_index(self.path, self._index)
            if index.digest != self.digest:
                raise BankError(
                    f"{self.path}: the bank's network changed since it was opened: digest was "
                    f"{self.digest}, is {index.digest}; open it again"
                )
            for folder in ("programs", "tasks"):
                inside(self.path, folder)  # refuse links before removing
            self._index = index
            try:
                yield
            finally:
                # read again, because a failed write may have replaced it
                remove_leftovers(self.path, read_index(self.path, self._index).entries)

    def _exchange(self, position: int, task: TaskMasks) -> None:
        used = files_in_use(self.entries)
        new = write_task(self.path, task.name, self.encode(task), used)
        self._write_entries((*self.entries[:position], new, *self.entries[position + 1 :]))

    def _write_entries(self, entries: tuple[BankEntry, ...]) -> None:
        self._index = write_index(self.path, replace(self._index, entries=entries))
