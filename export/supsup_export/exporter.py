"""From a bank to a model on disk: laid out, composed, checked, and put in place whole."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from supsup_export.compose import Request, compose
from supsup_export.layout import lay_out
from supsup_export.parity import ParityReport, check_parity
from supsup_runtime.bank import MaskBank
from supsup_runtime.contract import ModelInfo
from supsup_runtime.errors import OutputExistsError
from supsup_runtime.files import refuse_overwrite, whole_file

__all__ = ["ExportReport", "export"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The model.
        model_bytes: Its size.
        info: What it says of itself.
        parity: The largest differences from the bank; None if they were not asked for.
    """

    path: Path
    model_bytes: int
    info: ModelInfo
    parity: ParityReport | None


def export(
    bank: MaskBank,
    path: str | Path,
    *,
    request: Request | None = None,
    check: bool = True,
    sidecar: bool = False,
    force: bool = False,
) -> ExportReport:
    """Write the model of a bank; on any failure, leave what was there before.

    Args:
        bank: Open and not empty.
        path: The ``.onnx`` file.
        request: Target, objective and outputs.
        check: Run the model against the bank before it is put in place.
        sidecar: Write the metadata beside it as ``path + '.json'``, for hosts that show none.
        force: Replace a file that is there, and its sidecar.

    Raises:
        OutputExistsError: If `path` is there and `force` is false, or lies inside the bank.
        BankError: If the bank is empty, damaged, or cannot do what is asked for.
        ParityError: If the model does not compute what the bank says.
    """
    output = Path(path)
    beside = output.with_name(output.name + ".json")
    _refuse_inside(bank, output)
    for file in (output, beside):  # an old sidecar would describe another model
        refuse_overwrite(file, force=force)
    request = request or Request()
    model = compose(bank, lay_out(bank), request)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    info = ModelInfo.from_metadata(metadata, place=str(output))
    with ExitStack() as stack:  # the sidecar is whole on disk before either is put in place
        part = stack.enter_context(whole_file(output))
        part.write_bytes(model.SerializeToString(deterministic=True))
        del model  # the check loads the file; two copies of a large bank are enough
        parity = check_parity(part, bank, info, place=str(output)) if check else None
        model_bytes = part.stat().st_size
        if sidecar:
            text = json.dumps(metadata, indent=1, sort_keys=True) + "\n"
            stack.enter_context(whole_file(beside)).write_text(text)
        else:
            beside.unlink(missing_ok=True)
    return ExportReport(path=output, model_bytes=model_bytes, info=info, parity=parity)


def _refuse_inside(bank: MaskBank, output: Path) -> None:
    if output.resolve().is_relative_to(bank.path.resolve()):
        raise OutputExistsError(
            f"{output}: lies inside the bank {bank.path}, whose files must stay its own; "
            "choose a path outside it"
        )
