"""The command supsup-eval."""

from __future__ import annotations

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
    add_options,
    add_renamed,
    from_zero,
    parser,
    positive,
    print_result,
    run_command,
    to_table,
)
from supsup_runtime.evaluation.accuracy import evaluate

_EXAMPLES = (
    "out.onnx permuted",
    "out.onnx permuted --data mnist/ --tasks 10 --per-task 100 --method one-shot --json",
)


def main() -> None:
    """Run the command."""
    run_command("supsup-eval", _run)


def _run() -> None:
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
    text = "NNs: the tasks were found by a learner and have different names from the stream's"
    add_options(made.method, [("--scenario", ("named", "NNs"), "named", text)])
    add_inference_options(made)
    arguments = made.parse_args()
    model = load_model(arguments)
    value = evaluate(
        model,
        model_tasks(arguments, model),
        per_task=arguments.per_task,
        batch_size=arguments.batch_size,
        method=inference_of(arguments, model.default_method),
        unnamed=arguments.scenario == "NNs",
        progress=say_progress,
    )
    print_result(value, as_json=arguments.json, text=_to_text(value))


def _to_text(value: dict[str, Any]) -> str:
    possible = ("known", "unknown", "shared", "inferred", "known_ms", "unknown_ms", "rejected")
    keys = [key for key in possible if key in value]

    def line(name: str, row: dict[str, Any]) -> tuple[str, ...]:
        shown = [
            "-" if row.get(key) is None else f"{row[key]:.2f}" if "ms" in key else f"{row[key]:.4f}"
            for key in keys
        ]
        return (name, *shown)

    body = [line(row["task"], row) for row in value["tasks"]] + [line("mean", value)]
    return to_table(("task", *keys), body) + f"\nmethod: {value['method']}"
