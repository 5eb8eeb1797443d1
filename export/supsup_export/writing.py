"""Claim a model's path, and put the complete file there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from onnx import ModelProto

from supsup_runtime.arrays import check_kind, checked_path
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.fields import is_unicode
from supsup_runtime.errors import InputError, OutputExistsError
from supsup_runtime.files import refuse_overwrite, remove_parts, system_errors, whole_file
from supsup_runtime.model.metadata import PREFIX


def claim_output(bank: MaskBank, path: str | Path, *, force: bool) -> Path:
    """Return a path that a model may be written to.

    Raises:
        InputError: If its folder does not exist, or it is not UTF-8.
        OutputExistsError: If it or its sidecar exists and `force` is false, or it is inside the
            bank.
    """
    check_kind("bank", bank, MaskBank, "a MaskBank, from MaskBank.open")
    output = checked_path(path)
    if not is_unicode(str(output)):
        raise InputError(f"{output}: onnx writes only to paths in UTF-8; choose another name")
    with system_errors(output, "written"):  # a name that is too long
        if not output.parent.is_dir():
            raise InputError(
                f"{output}: the folder {output.parent} does not exist; create it first"
            )
        if output.resolve().is_relative_to(bank.path.resolve()):
            raise OutputExistsError(
                f"{output}: lies inside the bank {bank.path}, which holds only its own files; "
                "choose a path outside it"
            )
        refuse_overwrite(output, force=force)
        refuse_overwrite(_sidecar_of(output), force=force)  # it would describe another model
    return output


@contextmanager
def placed(output: Path, model: ModelProto, *, sidecar: bool) -> Iterator[Path]:
    """Write a model to a temporary file, and move it to `output` when the block succeeds.

    The block gets the temporary path. `sidecar` adds the metadata and the model's SHA-256; an old
    one is removed, and so is what killed exports left.
    """
    beside = _sidecar_of(output)
    values = {entry.key: entry.value for entry in model.metadata_props}
    remove_parts(output.parent, output.name, beside.name)
    with ExitStack() as stack:  # complete both files before moving either, the model first
        other = stack.enter_context(whole_file(beside)) if sidecar else None
        part = stack.enter_context(whole_file(output))
        part.write_bytes(model.SerializeToString(deterministic=True))
        del model
        yield part
        if other is not None:
            with part.open("rb") as file:
                values[PREFIX + "model_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            other.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
        beside.unlink(missing_ok=True)  # before the model moves: a kill leaves it beside no other


def _sidecar_of(output: Path) -> Path:
    return output.with_name(output.name + ".json")
