"""The command supsup-inspect: what a bank or model holds and needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.console import (
    add_options,
    parser,
    print_result,
    printable,
    thread_count,
    to_path,
    to_table,
)
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.evaluation.needs import call_times, measure_memory, needs
from supsup_runtime.hopfield.file import STORE_FILE
from supsup_runtime.hopfield.matrix import MAX_UNITS
from supsup_runtime.hopfield.storage import FORMS, storage
from supsup_runtime.model.loading import advice_on
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.model import load
from supsup_runtime.model.origin import identify
from supsup_runtime.model.protobuf import read_metadata


def run() -> None:
    """Run the command."""
    made = parser(
        "supsup-inspect",
        "Show what a bank or model holds, and what a model needs on a device.",
        ("masks/", "masks/ --storage", "out.onnx --measure --time"),
    )
    made.what_in.add_argument("path", type=to_path, help="folder of a bank, or model file")
    for name, text in (
        (
            "--storage",
            "bank: compare the bytes of its tasks in several forms, a Hopfield store too",
        ),
        ("--measure", "model: load it in a separate process to measure memory (default: estimate)"),
        ("--time", "model: time calls on single images, with the task known and inferred"),
        ("--json", "print the result as JSON"),
    ):
        made.what_out.add_argument(name, action="store_true", help=text)
    threads = "with --measure or --time: threads per call, 1 to 1024 (default: 1)"
    add_options(made.speed, [("--threads", thread_count, None, threads)])
    arguments = made.parse_args()
    path: Path = arguments.path
    if not identify(path):
        raise ModelError(f"{path}: no such bank or model")
    for option, wants_folder in (("storage", True), ("measure", False), ("time", False)):
        if getattr(arguments, option) and path.is_dir() != wants_folder:
            wanted, got = ("bank", "file") if wants_folder else ("model", "folder")
            raise ModelError(f"{path}: --{option} needs a {wanted}, got a {got}")
    if arguments.threads is not None and not (arguments.measure or arguments.time):
        raise InputError(
            "--threads applies to --measure and --time; add one of them, or leave it out"
        )
    if arguments.storage:
        found = storage(MaskBank.open(path, verify=False))
        print_result(found, as_json=arguments.json, text=_storage_text(found))
        return
    value = _bank(path) if path.is_dir() else _model(path, arguments)
    print_result(value, as_json=arguments.json, text=_to_text(value))


def _storage_text(value: dict[str, Any]) -> str:
    """The result of `storage` as two tables and a sentence."""
    tasks, each = value["tasks"], value["by_task"]
    rows: list[tuple[object, ...]] = []
    for form, title in FORMS.items():
        size = value[form]
        mean = f"{round(size / tasks):,}" if tasks else "-"
        rows.append((title, mean, f"{size:,}", f"{tasks:,}", "any"))
    room = ", ".join(f"{count:,} ({rule})" for rule, count in value["capacity"].items())
    for dtype, size in value["hopfield_bytes"].items():
        holds = room if value["fits"] else f"none: above {MAX_UNITS:,} units"
        need = value["break_even"][dtype]
        rows.append((f"Hopfield matrices, {dtype}", "-", f"{size:,}", f"from {need:,}", holds))
    own = value["store"]
    if own:
        title = f"{STORE_FILE}, {own['rule']}, {own['dtype']}"
        holds = f"{value['capacity'][own['rule']]:,}"
        rows.append((title, "-", f"{own['bytes']:,}", f"{own['tasks']:,}", holds))
    parts = [
        f"storage of {value['path']}",
        to_table(("form", "bytes per task", "bytes", "tasks", "holds at most"), rows),
        value["verdict"],
    ]
    if each:
        keys = [form.removesuffix("_bytes") for form in FORMS]
        cells = [
            (task["name"], f"{task['density']:.4f}", *(f"{task[form]:,}" for form in FORMS))
            for task in each
        ]
        parts.append(to_table(("task", "density", *keys), cells))
    return "\n".join(parts)


def _bank(path: Path) -> dict[str, Any]:
    bank = MaskBank.open(path)
    stored = bank.calibration()
    task_bytes = [(bank.path / entry.file).stat().st_size for entry in bank.entries]
    return {
        "kind": "bank",
        "path": str(path),
        "calibration": None if stored is None else stored.calibration.to_dict(),
        "calibration_stale": "" if stored is None else stored.stale,
        "digest": bank.digest,
        "objectives": list(bank.objectives),
        "revision": bank.revision,
        "tasks": list(bank.task_names),
        "task_bytes": sum(task_bytes),
        **_network(bank.network, len(bank)),
    }


def _model(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    info = ModelInfo.from_metadata(read_metadata(path), place=str(path))
    store, threads = info.hopfield, arguments.threads or 1
    refused = {"recover": ["time"], "recover-stream": ["time", "measure"]}.get(info.mode, [])
    for option in refused:
        if getattr(arguments, option):
            raise ModelError(f"{path}: --{option} does not apply to a model of mode {info.mode}")
    needed = needs(path, info)
    if arguments.measure:
        needed |= measure_memory(path, threads=threads)
    if arguments.time:
        needed |= call_times(load(path, threads=threads)) | {"threads": threads}
    return {
        "kind": "model",
        "path": str(path),
        "advice": advice_on(info) or None,
        "bytes": path.stat().st_size,
        "calibration": None if info.calibration is None else info.calibration.to_dict(),
        "digest": info.digest,
        "hopfield": None if store is None else {"rule": store.rule, "dtype": store.dtype},
        "mode": info.mode,
        "objective": info.objective,
        "preprocess": _where(info),
        "revision": info.revision,
        "scoring": info.scoring,
        "target": info.target,
        "tasks": [task.name for task in info.tasks],
        **_network(info.network, len(info.tasks)),
        "memory": "measured" if arguments.measure else "estimated",
        **needed,
    }


def _where(info: ModelInfo) -> str | None:
    """Say where pictures become inputs; None if nowhere."""
    if info.network.preprocessing is None:
        return None
    return "baked" if info.baked else "runtime"


def _network(network: Network, num_tasks: int) -> dict[str, Any]:
    return {
        "input_shape": list(network.input_shape),
        "outputs": network.outputs,
        "preprocessing": None if network.preprocessing is None else network.preprocessing.to_dict(),
        "real_outputs": network.real_outputs,
        "masked_weights": network.num_masked,
        "state_dtype": network.state_dtype,
        "state_elements": network.num_state,
        "weight_seed": network.weight_seed,
        "float_bytes": 4 * num_tasks * (network.num_masked + network.num_state),
    }


def _to_text(value: dict[str, Any]) -> str:
    names: list[str] = value["tasks"]
    shown = ", ".join(map(printable, names[:5])) + (", ..." if len(names) > 5 else "")
    listed = f" ({shown})" if names else ""  # without explicit tasks, of a Hopfield store alone
    lines = [f"{value['kind']} {value['path']}: {len(names)} tasks{listed}"]
    skipped = {"kind", "path", "tasks", "float_bytes", "calibration_stale"}
    lines += [f"  {key}: {_show(item)}" for key, item in value.items() if key not in skipped]
    if value.get("calibration_stale"):
        lines.append(f"  calibration_stale: {value['calibration_stale']}; run supsup-calibrate")
    own = value.get("bytes", value.get("task_bytes", 0))
    # without masks the tasks are floats already, and a store's model has none of them
    if own and value["masked_weights"] and not value.get("hopfield"):
        lines.append(
            f"  as {len(names)} float32 models: {value['float_bytes']:,} bytes, "
            f"{value['float_bytes'] / own:.1f} times as much"
        )
    return "\n".join(lines)


def _show(item: object) -> str:
    if item is None:
        return "none"
    if isinstance(item, dict):
        return ", ".join(f"{key} {_show(part)}" for key, part in item.items())
    if isinstance(item, float):
        return f"{item:.4g}"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, list):
        return ", ".join(map(str, item))
    return printable(item)
