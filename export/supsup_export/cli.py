"""The command supsup-export: a mask bank into one ONNX model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

import typer

from supsup_export.bank_model.compose import Request
from supsup_export.exporter import ExportReport, RecoveryExport, export, export_recovery
from supsup_export.task_model.compose import TaskExportReport, export_task
from supsup_export.task_model.parity import NUM_INPUTS
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.console import read_array, run_command
from supsup_runtime.errors import InputError
from supsup_runtime.model.metadata import Target

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
TARGETS = get_args(Target)


@app.command()
def export_bank(
    output: Annotated[Path, typer.Argument(help="Where to write the model.")],
    bank: Annotated[Path, typer.Option(help="Folder of the mask bank.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="cpu or cuda (fast with ONNX Runtime; cpu by default), or portable "
            "(ai.onnx alone)."
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="entropy or superfluous; superfluous where the network can."),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(help="Some of logits,task,task_scores,parameters,state; all if missing."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Bake this one task alone, as a plain model of x.")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="With --task, a weight's: 32 (float32; the default) or 2 (ternary)."),
    ] = None,
    scoring: Annotated[
        str | None,
        typer.Option(
            help="exact: every task. rounded, screened: exactly those that can still win; rounded "
            "if missing, for large banks on the CPU."
        ),
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(help="With --scoring screened, real inputs (.npy): which weights matter?"),
    ] = None,
    hopfield: Annotated[
        bool,
        typer.Option("--hopfield", help="Recover masks from the bank's Hopfield store instead."),
    ] = False,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="With --hopfield, a whole stream of batches in one call."),
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Run the model against the bank before it is put in place.")
    ] = True,
    sidecar: Annotated[bool, typer.Option(help="Write the metadata to OUTPUT.json, too.")] = False,
    force: Annotated[bool, typer.Option(help="Replace OUTPUT if it is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report in JSON.")] = False,
) -> None:
    """Bake the weights and masks of a bank into one ONNX model.

    supsup-export --bank masks/ out.onnx

    supsup-export --bank masks/ known.onnx --outputs logits

    supsup-export --bank masks/ anywhere.onnx --target portable --sidecar

    supsup-export --bank masks/ thousands.onnx --scoring screened --sample images.npy

    supsup-export --bank masks/ one.onnx --task permuted-0001 --bits 2

    supsup-export --bank masks/ recover.onnx --hopfield

    supsup-export --bank masks/ stream.onnx --hopfield --stream
    """
    settings = {
        "target": target,
        "objective": objective,
        "outputs": outputs,
        "scoring": scoring,
        "sample": sample,
    }
    if hopfield:
        _refuse_beside("--hopfield", "recovers masks", task=task, bits=bits, **settings)
        recovery = export_recovery(
            MaskBank.open(bank),
            output,
            stream=stream,
            check=check,
            sidecar=sidecar,
            force=force,
        )
        _say_unrecorded(recovery)
        found = _recovery_to_dict(recovery)
        typer.echo(json.dumps(found, sort_keys=True) if as_json else _recovery_to_text(recovery))
        return
    if stream:
        raise InputError(
            "--stream: is for a model that recovers masks; make one with --hopfield, or leave it "
            "out"
        )
    if task is not None:
        _refuse_beside("--task", "has one task", **settings)
        one = export_task(
            MaskBank.open(bank, verify=False),  # the task's own file is checked when it is read
            task,
            output,
            bits=32 if bits is None else bits,
            check=check,
            sidecar=sidecar,
            force=force,
        )
        text = json.dumps(_task_to_dict(one), sort_keys=True) if as_json else _task_to_text(one)
        typer.echo(text)
        return
    if bits is not None:
        raise InputError("--bits: is for a model of one task; name it with --task, or leave it out")
    target = "cpu" if target is None else target
    if target not in TARGETS:
        raise InputError(f"target: must be one of {list(TARGETS)}, got {target!r}")
    request = Request(
        target=target,  # type: ignore[arg-type]  # checked above
        objective=objective,
        outputs=tuple(outputs.replace(" ", "").split(",")) if outputs is not None else None,
        scoring=scoring,  # type: ignore[arg-type]  # Request checks it
    )
    report = export(
        MaskBank.open(bank),
        output,
        request=request,
        sample=None if sample is None else read_array(sample),
        check=check,
        sidecar=sidecar,
        force=force,
    )
    if report.left_out:
        typer.echo(f"supsup-export: {report.left_out}", err=True)
    typer.echo(json.dumps(_to_dict(report), sort_keys=True) if as_json else _to_text(report))


def _to_dict(report: ExportReport) -> dict[str, object]:
    parity = report.parity
    return {
        "bytes": report.model_bytes,
        "calibrated": report.info.calibration is not None,
        "mode": report.info.mode,
        "num_tasks": len(report.info.tasks),
        "objective": report.info.objective,
        "parity": None
        if parity is None
        else {"logits": parity.logits, "scores": parity.scores, "tasks": parity.tasks_checked},
        "path": str(report.path),
        "target": report.info.target,
    }


def _to_text(report: ExportReport) -> str:
    text = f"{report.path}: {len(report.info.tasks)} tasks, {report.model_bytes:,} bytes"
    parity = report.parity
    if parity is None:
        return text + ", not checked"
    parts = [
        f"{name} within {value:.0e}"
        for name, value in (("logits", parity.logits), ("scores", parity.scores))
        if value is not None
    ]
    return text + ", checked against the bank" + "".join(f", {part}" for part in parts)


def _refuse_beside(option: str, what: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"--{name}: does not apply to a model that {what}; leave it, or {option}, out"
            )


def _say_unrecorded(report: RecoveryExport) -> None:
    store = report.info.hopfield
    names = [
        task.name
        for task, entropy in zip(report.info.tasks, store.entropies if store else (), strict=False)
        if entropy is None
    ]
    if names:
        typer.echo(
            f"supsup-export: {len(names)} tasks have no entropy of their own on record "
            f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}), so streams of unknown "
            "tasks are not told from theirs; learn them with supsup-train, with test images",
            err=True,
        )


def _recovery_to_dict(report: RecoveryExport) -> dict[str, object]:
    return {
        "bytes": report.model_bytes,
        "mode": report.info.mode,
        "num_tasks": len(report.info.tasks),
        "parity": None if report.parity is None else report.parity.worst,
        "path": str(report.path),
    }


def _recovery_to_text(report: RecoveryExport) -> str:
    text = f"{report.path}: recovers {len(report.info.tasks)} tasks, {report.model_bytes:,} bytes"
    if report.parity is None:
        return text + ", not checked"
    worst = max(report.parity.worst.values())
    return text + f", checked against bank and store, all outputs within {worst:.0e}"


def _task_to_dict(report: TaskExportReport) -> dict[str, object]:
    parity = report.parity
    return {
        "bits": report.bits,
        "bytes": report.model_bytes,
        "parity": None
        if parity is None
        else {
            "inputs": NUM_INPUTS,
            "logits": parity.logits,
            "same_labels": parity.same_labels,
        },
        "path": str(report.path),
        "task": report.task,
    }


def _task_to_text(report: TaskExportReport) -> str:
    text = f"{report.path}: task {report.task}, {report.bits} bits a weight, "
    text += f"{report.model_bytes:,} bytes"
    parity = report.parity
    if parity is None:
        return text + ", not checked"
    return (
        f"{text}, checked against the bank, logits within {parity.logits:.0e}, "
        f"same label for {parity.same_labels} of {NUM_INPUTS} random inputs"
    )


def main() -> None:
    """Run the command."""
    run_command("supsup-export", app)
