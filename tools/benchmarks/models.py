"""Small banks of random masks, and models of every kind."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tools.benchmarks.banks import random_tasks

from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_recovery
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.hopfield.file import encode_into
from supsup_runtime.model.metadata import Target
from supsup_train import create_bank, make_model

KINDS: dict[str, tuple[str, ...]] = {
    "known": ("logits",),
    "parameters": ("logits", "parameters"),
    "infer": ("task", "logits"),
}
"""Outputs of models with only some outputs."""


def masks_bank(
    path: Path, model: str, *, tasks: int, inputs: int = 30, outputs: int = 20
) -> MaskBank:
    """Make a bank of random masks and state; a cnn ignores `inputs`."""
    shape = (1, 8, 8) if model == "cnn" else (inputs,)
    module = make_model(model, input_shape=shape, outputs=outputs)
    bank = create_bank(path, module, input_shape=shape, real_outputs=6)
    bank.extend(random_tasks(bank, tasks))
    return bank


def store_bank(path: Path, *, dtype: str = "float32", rule: str = "storkey") -> MaskBank:
    """Make a bank of random masks of units, all in its Hopfield store."""
    bank = masks_bank(path, "bnnet-65-33", tasks=2)
    encode_into(bank, bank.task_names, rule=rule, dtype=dtype)
    return bank


def make_models(
    folder: Path, target: Target, *, model: str, inputs: int, tasks: tuple[int, ...]
) -> None:
    """Make models of a CNN, a Hopfield store, and `model` with each number of tasks.

    Models with all outputs are made for the target and for `portable`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        export_recovery(store_bank(work / "store"), folder / "recover.onnx")
        banks = {"cnn": masks_bank(work / "cnn", "cnn", tasks=5)}
        for kind, names in KINDS.items():
            request = Request(target=target, outputs=names)
            export(banks["cnn"], folder / f"cnn-{kind}.onnx", request=request)
        for count in tasks:
            path = work / f"tasks-{count}"
            banks[path.name] = masks_bank(path, model, tasks=count, inputs=inputs, outputs=100)
        for name, bank in banks.items():
            for each in (target, "portable"):
                path = folder / f"{name}-{each}.onnx"
                export(bank, path, request=Request(target=each), check=False)
