"""Export a bank: compose a model, check it, put it in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from onnx import ModelProto

from supsup_export.bank_model.compose import Request, choose_objective, compose
from supsup_export.bank_model.layout import lay_out
from supsup_export.bank_model.parity import ParityReport, check_parity
from supsup_export.bank_model.screening import choose_screen
from supsup_export.recovery_model.parity import RecoveryReport, check_recovery, check_stream
from supsup_export.recovery_model.step import compose_recovery
from supsup_export.recovery_model.stream import compose_stream
from supsup_export.task_model.compose import compose_task, read_task
from supsup_export.task_model.parity import TaskParity, check_task
from supsup_export.writing import claim_output, placed
from supsup_runtime.arrays import Images, check_flags
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.file import read_store
from supsup_runtime.model.metadata import ModelInfo, Preprocess

Parity = TypeVar("Parity", bound=ParityReport | RecoveryReport | TaskParity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(ABC, Generic[Parity]):
    """Report on an exported model.

    Attributes:
        path: Path of the model.
        model_bytes: Size in bytes.
        parity: Largest differences from the bank; None if not checked.
        left_out: What the model lacks, and why, in one line; empty if nothing.
    """

    path: Path
    model_bytes: int
    parity: Parity | None
    left_out: str = ""

    def to_text(self) -> str:
        """Return a summary in one line."""
        found = "not checked" if self.parity is None else self.parity.to_text()
        return f"{self.path}: {self._described()[0]}, {self.model_bytes:,} bytes, {found}"

    def to_dict(self) -> dict[str, object]:
        """Return the report for JSON."""
        parity = None if self.parity is None else self.parity.to_dict()
        shared = {"bytes": self.model_bytes, "parity": parity, "path": str(self.path)}
        return shared | self._described()[1]

    @abstractmethod
    def _described(self) -> tuple[str, dict[str, object]]:
        """Describe the model, as text and for JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport(Report[Parity]):
    """Report on a model of several tasks.

    `left_out` names a stale calibration or, of a model that recovers masks, tasks without recorded
    entropy.

    Attributes:
        info: Metadata of the model.
    """

    info: ModelInfo

    def _described(self) -> tuple[str, dict[str, object]]:
        info, count = self.info, len(self.info.tasks)
        told: dict[str, object] = {"mode": info.mode, "num_tasks": count}
        if info.hopfield is not None:
            return f"recovers {count} tasks", told
        calibrated = info.calibration is not None
        more = {"calibrated": calibrated, "objective": info.objective, "target": info.target}
        return f"{count} tasks", told | more


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExportReport(Report[TaskParity]):
    """Report on the model of a task.

    Attributes:
        task: Name of the task.
        bits: Bits per masked weight.
    """

    task: str
    bits: int

    def _described(self) -> tuple[str, dict[str, object]]:
        text = f"task {self.task}, {self.bits} bits per weight"
        return text, {"bits": self.bits, "task": self.task}


def export(
    bank: MaskBank,
    path: str | Path,
    *,
    request: Request | None = None,
    sample: Images | None = None,
    check: bool = True,
    sidecar: bool = False,
    force: bool = False,
) -> ExportReport[ParityReport]:
    """Export a bank as one ONNX model; on failure, keep existing files.

    Args:
        bank: Bank with at least one task.
        path: Path of the ``.onnx`` file.
        request: Target, objective, outputs and scoring; None takes the defaults.
        sample: Real inputs, ``float32 (images, *input_shape)``, that select what screened scoring
            scores first; None takes random inputs.
        check: Compare the model with the bank before writing `path`.
        sidecar: Also write the metadata to ``path + '.json'``, for hosts that cannot read model
            metadata.
        force: Replace an existing file and its sidecar.

    Returns:
        Report on the model.

    Raises:
        OutputExistsError: If `path` or its sidecar exists and `force` is false, or `path` is inside
            the bank.
        BankError: If the bank is empty, damaged, or lacks a required gradient program or objective,
            or the model would exceed 2 GB.
        InputError: If the folder of `path` or a requested output does not exist, the scoring needs
            more masks or tasks, the sample does not fit, or the bank has no preprocessing to bake
            in.
        ParityError: If the model differs from the bank.
    """
    check_flags(check=check, sidecar=sidecar, force=force)
    output = claim_output(bank, path, force=force)
    model, info, left_out = _composed(bank, request or Request(), sample)
    with placed(output, model, sidecar=sidecar) as part:
        del model  # the check loads another copy
        parity = check_parity(part, bank, info, place=str(output), sample=sample) if check else None
    size = output.stat().st_size
    return ExportReport(path=output, model_bytes=size, parity=parity, info=info, left_out=left_out)


def _composed(
    bank: MaskBank, request: Request, sample: Images | None
) -> tuple[ModelProto, ModelInfo, str]:
    layout = lay_out(bank)
    if request.scoring == "screened":
        objective = choose_objective(bank, request.objective)
        layout = choose_screen(bank, layout, objective, sample)
    elif sample is not None:
        raise InputError("sample: requires scoring screened; set it, or leave the sample out")
    calibration, left_out = None, ""
    stored = bank.calibration()
    if stored is not None and request.mode != "infer":  # whose tasks cannot be judged
        if stored.stale:
            left_out = (
                f"{bank.path}: its calibration was not exported: {stored.stale}; run "
                "supsup-calibrate on this model and export again"
            )
        else:
            calibration = stored.calibration
    model, info = compose(bank, layout, request, calibration)
    return model, info, left_out


def export_recovery(
    bank: MaskBank,
    path: str | Path,
    *,
    stream: bool = False,
    check: bool = True,
    sidecar: bool = False,
    force: bool = False,
) -> ExportReport[RecoveryReport]:
    """Export a model that recovers masks from a bank's Hopfield store; see `export`.

    Args:
        bank: Bank with a store (`supsup-hopfield encode`); its own tasks are not read.
        path: Path of the ``.onnx`` file.
        stream: Recover from a whole stream in one call, for hosts without the runtime.
        check: Compare the model with bank and store before writing `path`.
        sidecar: As in `export`.
        force: As in `export`.

    Returns:
        Report on the model, whose tasks are the store's.

    Raises:
        InputError: If the folder of `path` does not exist.
        OutputExistsError: As in `export`.
        BankError: If the store is missing, damaged, empty or of another network, the bank has no
            gradient program, or the model would exceed 2 GB.
        ParityError: If the model differs from bank and store.
    """
    check_flags(stream=stream, check=check, sidecar=sidecar, force=force)
    output = claim_output(bank, path, force=force)
    store = read_store(bank)
    model, info = compose_stream(bank, store) if stream else compose_recovery(bank, store)
    with placed(output, model, sidecar=sidecar) as part:
        del model
        checked = check_stream if stream else check_recovery
        parity = checked(part, bank, store, place=str(output)) if check else None
    size, left_out = output.stat().st_size, _without_entropy(info)
    return ExportReport(path=output, model_bytes=size, parity=parity, info=info, left_out=left_out)


def _without_entropy(info: ModelInfo) -> str:
    entropies = info.hopfield.entropies if info.hopfield else ()
    pairs = zip(info.tasks, entropies, strict=True)
    names = [task.name for task, entropy in pairs if entropy is None]
    if not names:
        return ""
    return (
        f"{len(names)} tasks have no recorded entropy "
        f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}), so recovery cannot "
        "reject streams of unknown tasks that end in their masks; train them with supsup-train and "
        "test images"
    )


def export_task(
    bank: MaskBank,
    name: str,
    path: str | Path,
    *,
    bits: int = 32,
    preprocess: Preprocess = "runtime",
    check: bool = True,
    sidecar: bool = False,
    force: bool = False,
) -> TaskExportReport:
    """Export one task as a plain ONNX model; see `export`.

    Args:
        bank: Bank with the task.
        name: Name of the task.
        path: Path of the ``.onnx`` file.
        bits: Bits per weight: 32 (float32), or 2 (ternary, with int8 activations in linear layers).
        preprocess: As in `Request`.
        check: As in `export`.
        sidecar: As in `export`.
        force: As in `export`.

    Returns:
        Report on the model.

    Raises:
        InputError: If `bits` is not 2 or 32, or 2 without masked weights, the task or the folder of
            `path` does not exist, or the bank has no preprocessing to bake in.
        OutputExistsError: As in `export`.
        BankError: If the task's file is damaged, the model would exceed 2 GB, or the weights do not
            fit two bits.
        ParityError: If the model differs from the bank.
    """
    check_flags(check=check, sidecar=sidecar, force=force)
    task, baked = read_task(bank, name, bits, preprocess)
    output = claim_output(bank, path, force=force)
    model, stored = compose_task(bank, task, bits, baked=baked)
    with placed(output, model, sidecar=sidecar) as part:
        del model
        parity = None
        if check:
            parity = check_task(part, bank, task, stored, baked=baked, place=str(output))
    size = output.stat().st_size
    return TaskExportReport(path=output, model_bytes=size, parity=parity, task=name, bits=bits)
