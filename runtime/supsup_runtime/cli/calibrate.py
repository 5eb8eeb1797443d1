"""The command supsup-calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import JUDGING
from supsup_runtime.cli.options import (
    add_inference_options,
    add_model_options,
    add_sample_options,
    inference_of,
    load_model,
    model_tasks,
    say_progress,
)
from supsup_runtime.console import add_options, parser, print_result, to_path, to_table
from supsup_runtime.data.options import say_skipped
from supsup_runtime.evaluation.calibration import (
    check_same_bank,
    choose_samples,
    default_way,
    measure,
)

_EXAMPLES = (
    "out.onnx permuted --bank masks/",
    "out.onnx permuted --bank masks/ --data mnist/ --coverage 0.99 --per-task 400 --json",
)


def run() -> None:
    """Run the command."""
    made = parser(
        "supsup-calibrate",
        "Measure how a model best infers tasks, and the score below which it rejects an input; "
        "store both in the bank.",
        _EXAMPLES,
    )
    add_model_options(made)
    add_sample_options(made, "test images per task to measure, at least 1")
    text = "folder of the bank that the model was exported from; stores the calibration"
    made.what_out.add_argument("--bank", type=to_path, required=True, metavar="PATH", help=text)
    add_inference_options(made, JUDGING)
    text = "minimum fraction of the images of known tasks to accept, in (0, 1]"
    add_options(made.method, [("--coverage", float, 0.95, text)])
    arguments = made.parse_args()
    model = load_model(arguments)
    bank = MaskBank.open(arguments.bank, verify=False)
    check_same_bank(model, bank)
    bank.check_lock()  # before the measurement
    given = arguments.score is not None or arguments.candidates is not None
    chosen = arguments.method in {None, "auto"} and not given
    how = None if chosen else inference_of(arguments, default_way(model))
    tasks = model_tasks(arguments, model)
    samples = choose_samples(model, tasks, per_task=arguments.per_task)
    say_skipped(tasks)
    measured = measure(model, samples, how=how, coverage=arguments.coverage, progress=say_progress)
    bank.set_calibration(measured.calibration)
    value = measured.to_dict()
    print_result(value, as_json=arguments.json, text=_to_text(value, arguments.bank))


def _to_text(value: dict[str, Any], bank: Path) -> str:
    ways = [
        (
            way["method"] + (f", {way['candidates']} tried" if way["candidates"] else ""),
            way["score"] + (", adjusted by task" if way["adjusted"] else ""),
            f"{way['inferred']:.4f}",
            f"{way['together']:.4f}",
        )
        for way in value["ways"]
    ]
    first = f"{bank}: threshold {value['threshold']:.4g} ({value['score']}, {value['method']}), "
    first += f"accepts {value['coverage']:.2%} of {value['images']} images"
    lines = [to_table(("method", "score", "inferred", "of 8 at once"), ways)] if ways else []
    lines.append(first)
    if value["inferred"] is not None:
        lines.append(f"  task inferred of further images: {value['inferred']:.2%}")
    if value["accepted"] is None:
        lines.append("  further images accepted: not measured, none left; raise --per-task")
    else:
        lines.append(f"  further images accepted: {value['accepted']:.2%}")
    if value["auroc"] is None:
        lines.append("  AUROC: not measured, the bank has only one task")
    else:
        lines.append(
            f"  AUROC with a task left out: mean {value['auroc']:.4f}, minimum "
            f"{value['auroc_min']:.4f} ({value['auroc_min_task']}); rejected of the left-out "
            f"tasks' images: {value['rejected']:.2%}"
        )
    return "\n".join([*lines, "  export the bank again to include the threshold in the model"])
