"""Claim a model's path, and put the complete file there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from onnx import ModelProto

from supsup_runtime.arrays import check_kind, checked_path
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.fields import is_unicode, parse_json
from supsup_runtime.errors import InputError, OutputExistsError, SupSupError
from supsup_runtime.files import (
    read_file,
    refuse_overwrite,
    remove_parts,
    system_errors,
    whole_file,
)
from supsup_runtime.model.metadata import PREFIX
from supsup_runtime.model.protobuf import MAX_METADATA_BYTES

_DIGEST = PREFIX + "model_sha256"


def claim_output(bank: MaskBank, path: str | Path, *, force: bool) -> Path:
    """Return a path that a model may be written to.

    Raises:
        InputError: If its folder does not exist, or it is not UTF-8.
        OutputExistsError: If it or its sidecar exists and `force` is false, or it is inside the
            bank. A sidecar whose export was killed before the model came does not count.
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
        if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(bank.path)):
            raise OutputExistsError(
                f"{output}: lies inside the bank {bank.path}, which holds only its own files; "
                "choose a path outside it"
            )
        refuse_overwrite(output, force=True)  # no folder, pipe or device
        remove_parts(Path(os.path.realpath(output.parent)), output.name)  # and of its sidecar
        refuse_overwrite(output, force=force)
        beside = _sidecar_of(output)
        refuse_overwrite(beside, force=force or _is_sidecar(beside))
    return output


@contextmanager
def placed(output: Path, model: ModelProto, *, sidecar: bool) -> Iterator[Path]:
    """Write a model to a temporary file, and move it to `output` when the block succeeds.

    The block gets the temporary path. `sidecar` adds the metadata and the model's SHA-256. A kill
    leaves no sidecar beside another model: if there is a model, the old sidecar is removed first,
    and the new one comes last; else it comes first, so that a model that is there is complete.
    """
    beside = _sidecar_of(output)
    values = {entry.key: entry.value for entry in model.metadata_props}
    paths = [output]  # the last is moved first
    if sidecar:
        paths.insert(0 if output.exists() else 1, beside)
    with ExitStack() as stack:  # complete both files before moving either
        parts = {path: stack.enter_context(whole_file(path)) for path in paths}
        part = parts[output]
        part.write_bytes(model.SerializeToString(deterministic=True))
        del model
        yield part
        if sidecar:
            with part.open("rb") as file:
                values[_DIGEST] = hashlib.file_digest(file, "sha256").hexdigest()
            parts[beside].write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
        beside.unlink(missing_ok=True)


def _sidecar_of(output: Path) -> Path:
    return output.with_name(output.name + ".json")


def _is_sidecar(path: Path) -> bool:
    with suppress(SupSupError):
        told = parse_json(read_file(path, max_bytes=2 * MAX_METADATA_BYTES))
        return isinstance(told, dict) and _DIGEST in told
    return False
