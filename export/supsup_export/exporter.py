"""From a bank to a model on disk: laid out, composed, checked, and put in place whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from supsup_export.bank_model.compose import Request, choose_objective, compose
from supsup_export.bank_model.layout import lay_out
from supsup_export.bank_model.parity import ParityReport, check_parity
from supsup_export.bank_model.screening import choose_screen
from supsup_export.recovery_model.step import compose_recovery
from supsup_export.recovery_model.step_parity import RecoveryReport, check_recovery
from supsup_export.recovery_model.stream import compose_stream
from supsup_export.recovery_model.stream_parity import check_stream
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.errors import InputError, OutputExistsError
from supsup_runtime.files import refuse_overwrite, whole_file
from supsup_runtime.hopfield.file import read_store
from supsup_runtime.model.metadata import ModelInfo

__all__ = [
    "ExportReport",
    "RecoveryExport",
    "claim_output",
    "export",
    "export_recovery",
    "placed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The model.
        model_bytes: Its size.
        info: What it says of itself.
        parity: The largest differences from the bank; None if they were not asked for.
        left_out: Why the bank's calibration is not in the model, in one line; empty where it is,
            where the bank has none, and where the model could not use it.
    """

    path: Path
    model_bytes: int
    info: ModelInfo
    parity: ParityReport | None
    left_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryExport:
    """What was written: as `ExportReport`, of a model that recovers masks."""

    path: Path
    model_bytes: int
    info: ModelInfo
    parity: RecoveryReport | None


def export(
    bank: MaskBank,
    path: str | Path,
    *,
    request: Request | None = None,
    sample: npt.NDArray[np.float32] | None = None,
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
        BankError: If the bank is empty, damaged, or cannot do what is asked for.
        ParityError: If the model does not compute what the bank says.
    """
    output = claim_output(bank, path, force=force)
    request = request or Request()
    layout = lay_out(bank)
    if request.scoring == "screened":
        objective = choose_objective(bank, request.objective)
        layout = choose_screen(bank, layout, objective, sample)
    elif sample is not None:
        raise InputError("sample: is for screened scoring; ask for it, or leave the sample out")
    calibration, left_out = _calibration(bank, request)
    model = compose(bank, layout, request, calibration=calibration)
    del layout
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    info = ModelInfo.from_metadata(metadata, place=str(output))
    with placed(output, metadata, sidecar=sidecar) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
        del model  # the check loads the file; two copies of a large bank are enough
        parity = check_parity(part, bank, info, place=str(output), sample=sample) if check else None
        model_bytes = part.stat().st_size
    return ExportReport(
        path=output, model_bytes=model_bytes, info=info, parity=parity, left_out=left_out
    )


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
        OutputExistsError: As `export`.
        BankError: If there is no store, it is damaged, empty or of another network, the bank has
            no gradient program, or the model would pass 2 GB.
        ParityError: If the model does not compute what bank and store say.
    """
    output = claim_output(bank, path, force=force)
    store = read_store(bank)
    model = compose_stream(bank, store) if stream else compose_recovery(bank, store)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    info = ModelInfo.from_metadata(metadata, place=str(output))
    with placed(output, metadata, sidecar=sidecar) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
        checked = check_stream if stream else check_recovery
        parity = checked(part, bank, store, place=str(output)) if check else None
        model_bytes = part.stat().st_size
    return RecoveryExport(path=output, model_bytes=model_bytes, info=info, parity=parity)


def _calibration(bank: MaskBank, request: Request) -> tuple[Calibration | None, str]:
    """What the model says tells known tasks from unknown, or why it says nothing."""
    stored = bank.calibration()
    if stored is None or request.mode == "infer":  # such a model makes no passes to judge
        return None, ""
    if not stored.stale:
        return stored.calibration, ""
    return None, (
        f"{bank.path}: its calibration is left out: {stored.stale}; run supsup-calibrate on this "
        "model and export again"
    )


def claim_output(bank: MaskBank, path: str | Path, *, force: bool) -> Path:
    """The path of a model to write, once nothing stands in its way.

    Raises:
        OutputExistsError: If it, or a sidecar, is there and `force` is false, or it lies inside
            the bank.
    """
    output = Path(path)
    if output.resolve().is_relative_to(bank.path.resolve()):
        raise OutputExistsError(
            f"{output}: lies inside the bank {bank.path}, whose files must stay its own; "
            "choose a path outside it"
        )
    for file in (output, _sidecar_of(output)):  # an old sidecar would describe another model
        refuse_overwrite(file, force=force)
    return output


@contextmanager
def placed(output: Path, metadata: Mapping[str, str], *, sidecar: bool) -> Iterator[Path]:
    """Give a path to write a model to; when the block ends well, put it in place.

    Args:
        output: Where the model goes, from `claim_output`.
        metadata: The model's.
        sidecar: Put them beside the model; without it, an old sidecar is removed.
    """
    beside = _sidecar_of(output)
    with ExitStack() as stack:  # the sidecar is whole on disk before either is put in place
        yield stack.enter_context(whole_file(output))
        if sidecar:
            text = json.dumps(dict(metadata), indent=1, sort_keys=True) + "\n"
            stack.enter_context(whole_file(beside)).write_text(text)
        else:
            beside.unlink(missing_ok=True)


def _sidecar_of(output: Path) -> Path:
    return output.with_name(output.name + ".json")
