"""From a bank to a model on disk: composed, checked against the bank, and put in place whole."""

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
from supsup_runtime.arrays import Images
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.file import read_store
from supsup_runtime.model.metadata import ModelInfo

Parity = TypeVar("Parity", bound=ParityReport | RecoveryReport | TaskParity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(ABC, Generic[Parity]):
    """What was written.

    Attributes:
        path: The model.
        model_bytes: Its size.
        parity: The largest differences from the bank; None if they were not asked for.
        left_out: What of bank or store is not in the model, and why, in one line; else empty.
    """

    path: Path
    model_bytes: int
    parity: Parity | None
    left_out: str = ""

    def to_text(self) -> str:
        """What was written, and what the check found, in one line."""
        found = "not checked" if self.parity is None else self.parity.to_text()
        return f"{self.path}: {self._described()[0]}, {self.model_bytes:,} bytes, {found}"

    def to_dict(self) -> dict[str, object]:
        """The same for JSON."""
        parity = None if self.parity is None else self.parity.to_dict()
        shared = {"bytes": self.model_bytes, "parity": parity, "path": str(self.path)}
        return shared | self._described()[1]

    @abstractmethod
    def _described(self) -> tuple[str, dict[str, object]]:
        """What the model is, as text and for JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport(Report[ParityReport]):
    """What was written: the model of a whole bank, whose metadata are `info`.

    `left_out` tells of the bank's calibration, if the model could have used it.
    """

    info: ModelInfo

    def _described(self) -> tuple[str, dict[str, object]]:
        return f"{len(self.info.tasks)} tasks", {
            "calibrated": self.info.calibration is not None,
            "mode": self.info.mode,
            "num_tasks": len(self.info.tasks),
            "objective": self.info.objective,
            "target": self.info.target,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryExport(Report[RecoveryReport]):
    """What was written: a model that recovers masks, whose metadata are `info`.

    `left_out` tells of tasks without an entropy of their own.
    """

    info: ModelInfo

    def _described(self) -> tuple[str, dict[str, object]]:
        num_tasks = len(self.info.tasks)
        return f"recovers {num_tasks} tasks", {"mode": self.info.mode, "num_tasks": num_tasks}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExportReport(Report[TaskParity]):
    """What was written: the model of one task, of so many bits per masked weight."""

    task: str
    bits: int

    def _described(self) -> tuple[str, dict[str, object]]:
        text = f"task {self.task}, {self.bits} bits a weight"
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
) -> ExportReport:
    """Write the model of a bank; on any failure, leave what was there before.

    Args:
        bank: Open and not empty.
        path: The ``.onnx`` file.
        request: Target, objective, outputs, scoring.
        sample: ``float32 (images, *input_shape)``, real inputs by which screened scoring
            chooses what to score first; None takes random ones.
        check: Run the model against the bank before it is put in place.
        sidecar: Write the metadata beside it as ``path + '.json'``, for hosts that show none.
        force: Replace a file that is there, and its sidecar.

    Raises:
        OutputExistsError: If `path` is there and `force` is false, or lies inside the bank.
        BankError: If the bank is empty, damaged, lacks the gradient program or the objective that
            the request needs, or the model would pass 2 GB.
        InputError: If the folder of `path` is missing, the network does not have an output that is
            asked for, or too few masks or tasks for a scoring, or the sample does not fit.
        ParityError: If the model does not compute what the bank says.
    """
    output = claim_output(bank, path, force=force)
    model, info, left_out = _composed(bank, request or Request(), sample)
    with placed(output, model, sidecar=sidecar) as part:
        del model  # the check loads the file; two copies of a large bank are enough
        parity = check_parity(part, bank, info, place=str(output), sample=sample) if check else None
    size = output.stat().st_size
    return ExportReport(path=output, model_bytes=size, parity=parity, info=info, left_out=left_out)


def _composed(
    bank: MaskBank, request: Request, sample: Images | None
) -> tuple[ModelProto, ModelInfo, str]:
    """A bank's model, its metadata, and why they say nothing of how to tell unknown tasks."""
    layout = lay_out(bank)
    if request.scoring == "screened":
        objective = choose_objective(bank, request.objective)
        layout = choose_screen(bank, layout, objective, sample)
    elif sample is not None:
        raise InputError("sample: is for screened scoring; ask for it, or leave the sample out")
    calibration, left_out = None, ""
    stored = bank.calibration()
    if stored is not None and request.mode != "infer":  # such a model makes no passes to judge
        if stored.stale:
            left_out = (
                f"{bank.path}: its calibration is left out: {stored.stale}; run supsup-calibrate "
                "on this model and export again"
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
) -> RecoveryExport:
    """Write the model that recovers masks from a bank's Hopfield store; see `export`.

    No task file is read: the tasks are those of the store.

    Args:
        bank: With a store (`supsup-hopfield encode`); it may have no task left.
        path: The ``.onnx`` file.
        stream: Recover from a whole stream in one call, for hosts without the runtime.
        check: Run the model against bank and store before it is put in place.
        sidecar: As `export`.
        force: As `export`.

    Raises:
        InputError: If the folder of `path` is missing.
        OutputExistsError: As `export`.
        BankError: If there is no store, it is damaged, empty or of another network, the bank has
            no gradient program, or the model would pass 2 GB.
        ParityError: If the model does not compute what bank and store say.
    """
    output = claim_output(bank, path, force=force)
    store = read_store(bank)
    model, info = compose_stream(bank, store) if stream else compose_recovery(bank, store)
    with placed(output, model, sidecar=sidecar) as part:
        del model
        checked = check_stream if stream else check_recovery
        parity = checked(part, bank, store, place=str(output)) if check else None
    size, left_out = output.stat().st_size, _without_entropy(info)
    return RecoveryExport(
        path=output, model_bytes=size, parity=parity, info=info, left_out=left_out
    )


def _without_entropy(info: ModelInfo) -> str:
    entropies = info.hopfield.entropies if info.hopfield else ()
    pairs = zip(info.tasks, entropies, strict=True)
    names = [task.name for task, entropy in pairs if entropy is None]
    if not names:
        return ""
    return (
        f"{len(names)} tasks have no entropy of their own on record "
        f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}), so streams of unknown "
        "tasks are not told from theirs; learn them with supsup-train, with test images"
    )


def export_task(
    bank: MaskBank,
    name: str,
    path: str | Path,
    *,
    bits: int = 32,
    check: bool = True,
    sidecar: bool = False,
    force: bool = False,
) -> TaskExportReport:
    """Write the model of one task; on any failure, leave what was there before.

    Args:
        bank: Open, with the task in it.
        name: The task.
        path: The ``.onnx`` file.
        bits: 32 for float32 weights; 2 for ternary ones and int8 activations in linear layers.
        check: As `export`.
        sidecar: As `export`.
        force: As `export`.

    Raises:
        InputError: If `bits` is not 2 or 32, or 2 where nothing is masked, or there is no such
            task, or the folder of `path` is missing.
        OutputExistsError: As `export`.
        BankError: If the task's file is damaged, the model would pass 2 GB, or its weights do
            not fit two bits.
        ParityError: If the model does not compute what the bank says.
    """
    task = read_task(bank, name, bits)
    output = claim_output(bank, path, force=force)
    model, stored = compose_task(bank, task, bits)
    with placed(output, model, sidecar=sidecar) as part:
        del model
        parity = check_task(part, bank, task, stored, place=str(output)) if check else None
    size = output.stat().st_size
    return TaskExportReport(path=output, model_bytes=size, parity=parity, task=name, bits=bits)
