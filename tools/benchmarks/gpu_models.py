"""Models of random masks for `tools/gpu_check.py`: of every mode, for CUDA and portable."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tools.benchmarks.banks import bench_bank
from tools.compare_exports import masks_bank, store_bank

from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_recovery
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.model.metadata import Target


def make_models(folder: Path, *, tasks: tuple[int, ...] = (250, 2500)) -> None:
    """Write the models into a folder: LeNet 300-100 of so many tasks, a CNN, a Hopfield store.

    Raises:
        OutputExistsError: If one is there.
    """
    targets: tuple[Target, ...] = ("cuda", "portable")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        cnn = MaskBank.open(masks_bank(work / "cnn", "cnn", tasks=5))
        store = MaskBank.open(store_bank(work / "store", dtype="float32", rule="storkey"))
        export_recovery(store, folder / "recover.onnx")
        for target in targets:
            export(cnn, folder / f"cnn-{target}.onnx", request=Request(target=target))
        for name, outputs in (("known", ("logits",)), ("infer", ("task", "logits"))):
            request = Request(target="cuda", outputs=outputs)
            export(cnn, folder / f"cnn-{name}.onnx", request=request)
        for count in tasks:
            bank = bench_bank(work, model="lenet-300-100", outputs=100, tasks=count).bank
            for target in targets:
                path = folder / f"tasks-{count}-{target}.onnx"
                export(bank, path, request=Request(target=target), check=False)
