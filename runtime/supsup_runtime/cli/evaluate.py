"""The command supsup-eval."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supsup_runtime.cli.options import (
    add_inference_options,
    add_model_options,
    add_sample_options,
    inference_of,
    load_model,
    model_tasks,
    say_progress,
)
from supsup_runtime.console import (
    MAX_LINE,
    CommandParser,
    add_options,
    add_renamed,
    from_zero,
    parser,
    positive,
    print_result,
    printable,
    to_path,
    to_table,
)
from supsup_runtime.data.options import say_skipped
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation.accuracy import evaluate
from supsup_runtime.evaluation.findings import confused_classes
from supsup_runtime.evaluation.report import claim_report, write_report
from supsup_runtime.evaluation.report.sources import data_name, pictured, read_curves, sizes
from supsup_runtime.evaluation.tracking import evaluate_tracker

_EXAMPLES = (
    "out.onnx permuted",
    "out.onnx permuted --report report.html --bank masks/",
    "out.onnx permuted --stay 30",
    "out.onnx permuted --data mnist/ --tasks 10 --per-task 100 --method one-shot --json",
)
_SHOWN = 5
_SWITCH = 0.02


def run() -> None:
    """Run the command."""
    made = parser(
        "supsup-eval",
        "Evaluate a model on a stream of tasks.\n\n"
        "Measures accuracy and time with the task known, on all test images, and with the\n"
        "task inferred, on a sample in batches of one task.",
        _EXAMPLES,
    )
    add_model_options(made)
    text = "test images per task to infer the task of; 0 skips inference"
    add_sample_options(made, text, from_zero)
    add_options(made.what_in, [("--batch-size", positive, 1, "inputs per batch")])
    add_renamed(made, {"--batch": "--batch-size"})
    text = "also run a tracker over frames that stay in a task for so many (default: no)"
    add_options(made.what_in, [("--stay", positive, None, text)])
    text = f"with --stay: probability that the next frame is of another task (default: {_SWITCH})"
    add_options(made.method, [("--switch", float, None, text)])
    text = "NNs: the tasks were found by a learner and have different names from the stream's"
    add_options(made.method, [("--scenario", ("named", "NNs"), "named", text)])
    add_inference_options(made)
    _add_report_options(made)
    arguments = made.parse_args()
    _check_report(arguments)
    _check_stay(arguments)
    model = load_model(arguments)
    stream = model_tasks(arguments, model)
    curves = _curves(arguments.bank, stream.task_names)
    method = inference_of(arguments, model.how())
    tracked = None
    if arguments.stay is not None:  # first: it may be refused
        tracked = evaluate_tracker(
            model,
            stream,
            stay=arguments.stay,
            switch=_SWITCH if arguments.switch is None else arguments.switch,
            per_task=arguments.per_task,
            method=method,
        )
    value = evaluate(
        model,
        stream,
        per_task=arguments.per_task,
        batch_size=arguments.batch_size,
        method=method,
        unnamed=arguments.scenario == "NNs",
        progress=say_progress,
    )
    if tracked is not None:
        value["tracked"] = tracked
    say_skipped(stream)
    print_result(value, as_json=arguments.json, text=_to_text(value))
    if arguments.report:  # last: a full disk loses no result
        about = {
            "curves": curves,
            "data": data_name(stream),
            "model": arguments.model.name,
            "pictures": pictured(stream, value["tasks"]),
            "refusal": model.info.calibration and model.info.calibration.to_dict(),
            "sizes": sizes(arguments.model, model.info),
        }
        write_report(arguments.report, {**value, **about})


def _add_report_options(made: CommandParser) -> None:
    add = made.what_out.add_argument
    text = "write a page (HTML) with charts and the pictures that went wrong (default: none)"
    add("--report", type=to_path, metavar="PATH", help=text)
    text = "bank, or its training log, whose learning curves go into the report (default: none)"
    add("--bank", type=to_path, metavar="PATH", help=text)
    add("--force", action="store_true", help="replace an existing report")


def _curves(path: Path | None, tasks: Sequence[str]) -> list[dict[str, Any]]:
    if path is None:
        return []
    return read_curves(path / "train.jsonl" if path.is_dir() else path, tasks)


def _check_report(arguments: argparse.Namespace) -> None:
    report: Path | None = arguments.report
    if report is None:
        for option in ("bank", "force"):
            if getattr(arguments, option):
                raise InputError(f"--{option}: goes with --report; add it, or leave --{option} out")
        return
    if arguments.scenario == "NNs":
        raise InputError("--report: goes with --scenario named, got NNs; leave it out")
    claim_report(report, force=arguments.force)


def _check_stay(arguments: argparse.Namespace) -> None:
    if arguments.switch is not None and arguments.stay is None:
        raise InputError("--switch: goes with --stay; add it, or leave --switch out")
    if arguments.stay is None:
        return
    if arguments.scenario == "NNs":
        raise InputError("--stay: goes with --scenario named, got NNs; leave it out")
    if arguments.per_task < arguments.stay:
        raise InputError(
            f"--stay: runs of {arguments.stay} frames need as many images, got --per-task "
            f"{arguments.per_task}; raise it"
        )


def _to_text(value: dict[str, Any]) -> str:
    possible = ("known", "unknown", "shared", "inferred", "known_ms", "unknown_ms", "rejected")
    keys = [key for key in (*possible, "chance") if key in value]

    def line(name: str, row: dict[str, Any]) -> tuple[str, ...]:
        shown = [
            "-" if row.get(key) is None else f"{row[key]:.2f}" if "ms" in key else f"{row[key]:.4f}"
            for key in keys
        ]
        return (name, *shown)

    body = [line(row["task"], row) for row in value["tasks"]] + [line("mean", value)]
    lines = [to_table(("task", *keys), body), f"method: {value['method']}"]
    classes = confused_classes(value["tasks"])
    for name, pairs in (("tasks", value["confusion"]), ("classes", classes)):
        if pairs:
            listed = [
                f"{printable(one)} as {printable(other)} ({share:.1%})"
                for one, other, share in pairs[:_SHOWN]
            ]
            lines.append(f"{name} most confused: {', '.join(listed)}")
    if "tracked" in value:
        lines.append(_tracked_text(value["tracked"]))
    warnings = (f"warning: {printable(text, MAX_LINE)}" for text in value["warnings"])
    return "\n".join([*lines, *warnings])


def _tracked_text(found: dict[str, Any]) -> str:
    refused = "" if found["refused"] is None else f", refused {found['refused']:.4f}"
    return (
        f"tracked: inferred {found['inferred']:.4f}, single frames {found['single']:.4f}, unknown "
        f"{found['unknown']:.4f}{refused}, {found['ms']:.2f} ms ({found['frames']} frames, stay "
        f"{found['stay']}, switch {found['switch']:g})"
    )
