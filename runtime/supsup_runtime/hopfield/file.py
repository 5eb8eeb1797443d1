"""The file of a Hopfield store (docs/FORMAT.md, "The Hopfield store")."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from supsup_runtime.arrays import Array, check_choice, check_kind, check_sequence
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.fields import Fields, canonical_json
from supsup_runtime.bank.index import MAX_TASKS
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import check_labels, check_name
from supsup_runtime.bank.tensorfile import TensorFile, check_array
from supsup_runtime.errors import BankError, CapacityWarning, InputError
from supsup_runtime.files import inside, read_file, write_whole
from supsup_runtime.hopfield.matrix import DTYPES, RULES, HopfieldMatrix
from supsup_runtime.hopfield.store import (
    FINGERPRINT,
    TOLERATED,
    HopfieldStore,
    StoredTask,
    are_fingerprints,
    fingerprints,
    is_entropy,
    store_bytes,
)

FORMAT = 1
STORE_FILE = "hopfield.safetensors"
MAX_HEADER_BYTES = 16 << 20
MAX_DISTANCE = 0.02
"""Largest fraction of changed bits for a mask to be deleted."""
_FILE = TensorFile(
    kind="Hopfield store",
    formats={FORMAT: frozenset({"digest", "dtype", "format", "rule", "sha256", "tasks"})},
    max_header=MAX_HEADER_BYTES,
)
_TASK_FIELDS = {"fingerprints", "labels", "name"}  # and, if known, "entropy"


def has_store(bank: MaskBank) -> bool:
    """Return whether a bank has a Hopfield store, without opening it."""
    return inside(bank.path, STORE_FILE).exists()


def read_store(bank: MaskBank) -> HopfieldStore:
    """Read and check a bank's store, without opening task files.

    Raises:
        BankError: If it is missing, or breaks a rule of docs/FORMAT.md.
    """
    path = inside(bank.path, STORE_FILE)
    if not path.exists():
        raise BankError(
            f"{bank.path}: the bank has no Hopfield store, {STORE_FILE} is missing; "
            "make it with supsup-hopfield encode"
        )
    data = read_file(path, max_bytes=_max_bytes(bank.network))
    return decode_store(data, bank.network, bank.digest, place=str(path))


def encode_into(
    bank: MaskBank, names: Iterable[str], *, rule: str | None = None, dtype: str | None = None
) -> tuple[HopfieldStore, dict[str, dict[str, float]]]:
    """Encode tasks of a bank into its store, which is created if missing.

    Nothing is written unless all tasks can be encoded.

    Args:
        bank: The bank.
        names: Task names, in order.
        rule: Must match an existing store; a new one defaults to ``storkey``.
        dtype: Must match an existing store; a new one defaults to ``float32``.

    Returns:
        The store, and the result of `HopfieldStore.encode` by task.

    Raises:
        BankError: If a task is missing or already encoded, or a file breaks a rule.
        BankLockedError: If another process is writing.
        InputError: If rule or dtype differ from the store's, or the network is too large.

    Warns:
        CapacityWarning: As `HopfieldStore.encode`, and if the store has lost an older task whose
            mask is still in the bank.
    """
    check_kind("names", names, Iterable, "texts in a list or the like")
    for what, choice, choices in (("rule", rule, RULES), ("dtype", dtype, DTYPES)):
        if choice is not None:
            check_choice(f"{what}:", choice, choices)
    with bank.changing():
        if has_store(bank):
            store = read_store(bank)
            for kind, wanted, own in (("rule", rule, store.rule), ("dtype", dtype, store.dtype)):
                if wanted not in {None, own}:
                    raise InputError(
                        f"{bank.path / STORE_FILE}: {kind} of an existing store cannot change, "
                        f"expected {own}, got {wanted}; omit the option, or delete the file"
                    )
        else:
            store = HopfieldStore(
                bank.network, bank.digest, rule=rule or "storkey", dtype=dtype or "float32"
            )
        errors = {name: store.encode(bank.task(name)) for name in names}
        if errors:
            write_whole(inside(bank.path, STORE_FILE), encode_store(store))
            _warn_forgotten(bank, store)
    return store, errors


def _warn_forgotten(bank: MaskBank, store: HopfieldStore) -> None:
    """Measure all tasks whose masks are in the bank; warn of the worst per parameter.

    Similar masks fade faster than random ones, and ``storkey`` shows no error of the newest.
    """
    lost: dict[str, list[tuple[float, str]]] = {name: [] for name in store.matrices}
    for stored in store.tasks:
        if stored.name not in bank:
            continue
        task = bank.task(stored.name)
        if fingerprints(task, bank.network) != stored.fingerprints:
            continue  # replaced since encoding
        for name, pattern in store.patterns_of(task).items():
            error = store.matrices[name].bit_error(pattern)
            if error > TOLERATED:
                lost[name].append((error, stored.name))
    for name, errors in lost.items():
        if errors:
            error, task_name = max(errors)
            warnings.warn(
                f"Hopfield store: {name!r} does not hold {len(errors)} of the tasks whose masks "
                f"are in the bank: one step flips up to {error:.2%} of the bits ({task_name!r}), "
                f"expected at most {TOLERATED:.2%}; keep their explicit masks, or mask more units",
                CapacityWarning,
                stacklevel=3,
            )


def delete_masks(bank: MaskBank, names: Sequence[str]) -> None:
    """Delete tasks from a bank after checking that its store returns their masks.

    Raises:
        BankError: If a task is not in both, was replaced after encoding, or more than
            `MAX_DISTANCE` of a mask's bits change. Nothing is deleted then.
        BankLockedError: If another process is writing.
    """

    def check() -> None:
        store = read_store(bank)  # the lock is held
        for name in dict.fromkeys(names):
            _refuse_lost(bank, store, name)

    check_sequence("names", names)
    bank.remove(*names, check=check)


def _refuse_lost(bank: MaskBank, store: HopfieldStore, name: str) -> None:
    task, stored = bank.task(name), next((t for t in store.tasks if t.name == name), None)
    if stored is None:
        raise BankError(f"{bank.path}: task {name!r} is not in the store; encode it first")
    if fingerprints(task, bank.network) != stored.fingerprints:
        raise BankError(
            f"{bank.path}: task {name!r} was replaced since it was encoded; no mask was "
            "deleted. Rename it and encode it, or keep it"
        )
    patterns = store.patterns_of(task)
    settled, fixed = store.settle(patterns)
    for parameter, pattern in patterns.items():
        distance = float(np.mean(settled[parameter] != pattern))
        if not fixed or distance > MAX_DISTANCE:
            raise BankError(
                f"{bank.path}: the store must return the mask {parameter!r} of task {name!r} "
                f"within {MAX_DISTANCE:.0%} of its bits, got {distance:.1%}; no mask was "
                "deleted. Keep the explicit masks, or delete the store and encode fewer tasks"
            )


def encode_store(store: HopfieldStore) -> bytes:
    """Return the bytes of a store's file; equal stores give equal bytes.

    More than 2^24 characters of names and labels raise `BankError`.
    """
    tensors: dict[str, Array] = {}
    for name, matrix in store.matrices.items():
        tensors[f"matrix.{name}"] = matrix.half()
        tensors[f"sum.{name}"] = store.sums[name].astype(np.int32)
    for name, total in store.state_sums.items():
        tensors[f"state.{name}"] = total
    header = {
        "digest": store.digest,
        "dtype": store.dtype,
        "format": FORMAT,
        "rule": store.rule,
        "sha256": _sha256(tensors),
        "tasks": [_task_to_dict(task) for task in store.tasks],
    }
    text = canonical_json(header)
    return _FILE.write(tensors, text, "Hopfield store")


def _task_to_dict(task: StoredTask) -> dict[str, object]:
    value = asdict(task)
    if task.entropy is None:
        del value["entropy"]
    return value


def decode_store(data: bytes, network: Network, digest: str, *, place: str) -> HopfieldStore:
    """Invert `encode_store`, trusting nothing."""
    tensors, header = _FILE.read(data, digest, {FORMAT: _tensor_names(network)}, place)
    items = header.items("tasks", most=MAX_TASKS)
    tasks = tuple(_task(item, network, place) for item in items)
    folded = [task.name.casefold() for task in tasks]
    if len(set(folded)) < len(folded):
        raise BankError(f"{place}: task names must be unique (they ignore case)")
    _check_tensors(tensors, network, header["dtype"], place)  # before memory for matrices
    try:
        store = HopfieldStore(network, digest, rule=header["rule"], dtype=header["dtype"])
    except InputError as error:
        raise BankError(f"{place}: {error}") from error
    store.tasks = tasks
    _fill(store, tensors, place)
    got = _sha256(tensors)
    if got != header["sha256"]:
        raise BankError(
            f"{place}: the file is damaged or was changed: SHA-256 of its tensors must be "
            f"{header['sha256']!r:.80}, got {got}; restore it"
        )
    return store


def _tensor_names(network: Network) -> list[str]:
    names = [f"{kind}.{p.name}" for p in network.parameters for kind in ("matrix", "sum")]
    return names + [f"state.{s.name}" for s in network.state]


def _check_tensors(tensors: dict[str, Array], network: Network, dtype: str, place: str) -> None:
    expected: list[tuple[str, str, tuple[int, ...]]] = []
    for p in network.parameters:
        matrix = dtype if dtype in DTYPES else DTYPES[0]  # another is refused with the store
        expected.append((f"matrix.{p.name}", matrix, (p.size * (p.size + 1) // 2,)))
        expected.append((f"sum.{p.name}", "int32", (p.size,)))
    expected += [(f"state.{s.name}", "float64", s.shape) for s in network.state]
    for name, kind, shape in expected:
        check_array(tensors[name], kind, shape, place=f"{place}: {name!r}")


def _fill(store: HopfieldStore, tensors: dict[str, Array], place: str) -> None:
    network = store.network
    for p in network.parameters:
        half = tensors[f"matrix.{p.name}"]
        store.matrices[p.name] = HopfieldMatrix.from_half(half, p.size, rule=store.rule)
        total = tensors[f"sum.{p.name}"].astype(np.int64)
        count = len(store.tasks)
        if np.any(np.abs(total) > count) or np.any((total - count) % 2):
            raise BankError(
                f"{place}: 'sum.{p.name}' must add {count} signs: within [-{count}, {count}] and "
                f"{'odd' if count % 2 else 'even'}, got values of [{total.min()}, {total.max()}]"
            )
        store.sums[p.name] = total
    for s in network.state:
        store.state_sums[s.name] = tensors[f"state.{s.name}"].copy()  # was read-only


def _sha256(tensors: Mapping[str, Array]) -> str:
    """Return the SHA-256 of the tensors' bytes, sorted by name."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(tensors[name].reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _task(item: object, network: Network, place: str) -> StoredTask:
    found = Fields(item, _TASK_FIELDS, f"{place}: a task", optional={"entropy"})
    entropy = found.value.get("entropy")
    if "entropy" in found.value and not is_entropy(entropy):
        raise BankError(
            f"{place}: entropy of a task must be at least 0 and finite, got {entropy!r:.80}"
        )
    marks, count = found["fingerprints"], len(network.parameters)
    if not are_fingerprints(marks, count):
        raise BankError(
            f"{place}: fingerprints of a task must be {count}, each of {FINGERPRINT} hexadecimal "
            f"digits, got {marks!r:.80}"
        )
    try:
        name = check_name(found["name"])
    except BankError as error:
        raise BankError(f"{place}: {error}") from error
    labels = tuple(found.items("labels"))
    check_labels(labels, network, place)
    return StoredTask(
        name=name,
        labels=labels,
        fingerprints=tuple(marks),
        entropy=None if entropy is None else float(entropy),
    )


def _max_bytes(network: Network) -> int:
    """Return an upper bound on a store's file size."""
    return store_bytes(network, "float32") + _FILE.frame_bytes(_tensor_names(network))
