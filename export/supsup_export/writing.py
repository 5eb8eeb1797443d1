"""How a model gets its place: the path is claimed, and it is put there whole, with its sidecar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from onnx import ModelProto

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError, OutputExistsError
from supsup_runtime.files import refuse_overwrite, whole_file


def claim_output(bank: MaskBank, path: str | Path, *, force: bool) -> Path:
    """The path of a model to write, once nothing stands in its way.

    Raises:
        InputError: If its folder is missing.
        OutputExistsError: If it, or a sidecar, is there and `force` is false, or it lies inside
            the bank.
    """
    output = Path(path)
    if not output.parent.is_dir():
        raise InputError(
            f"{output}: {output.parent} must be a folder, there is none; make it first"
        )
    if output.resolve().is_relative_to(bank.path.resolve()):
        raise OutputExistsError(
            f"{output}: lies inside the bank {bank.path}, whose files must stay its own; "
            "choose a path outside it"
        )
    for file in (output, _sidecar_of(output)):  # an old sidecar would describe another model
        refuse_overwrite(file, force=force)
    return output


@contextmanager
def placed(output: Path, model: ModelProto, *, sidecar: bool) -> Iterator[Path]:
    """Write a model to a temporary file; when the block, which gets its path, ends well, place it.

    The caller should drop the model: the block checks the file, and two copies of a large bank are
    enough. With `sidecar`, its metadata go beside it; without, an old sidecar is removed.
    """
    beside = _sidecar_of(output)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    with ExitStack() as stack:  # the sidecar is whole on disk before either is put in place
        part = stack.enter_context(whole_file(output))
        part.write_bytes(model.SerializeToString(deterministic=True))
        del model
        yield part
        if sidecar:
            text = json.dumps(metadata, indent=1, sort_keys=True) + "\n"
            stack.enter_context(whole_file(beside)).write_text(text)
        else:
            beside.unlink(missing_ok=True)


def _sidecar_of(output: Path) -> Path:
    return output.with_name(output.name + ".json")
