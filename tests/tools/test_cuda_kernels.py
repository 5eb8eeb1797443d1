"""Every node of a model of target cuda has a kernel of the CUDA provider, or a reason.

No test of models runs CUDA: `tools/cuda_kernels.txt` has what ONNX Runtime publishes, docs/GPU.md
the result.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from tools.benchmarks.models import KINDS, store_bank
from tools.cuda_kernels import MOVED, differing, kernels, unexpected

from banks import filled, make_bank, picture_bank
from cuda_nodes import FOLDED, HOST_INPUTS, Placed, optimised, placed
from supsup_export.bank_model import scores
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_recovery, export_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.preprocessing import Preprocessing
from supsup_train.networks.create_bank import create_bank
from supsup_train.networks.models import make_model

pytestmark = pytest.mark.slow

Models = dict[str, Path]
DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "GPU.md"
SHARED_BYTES = 48 << 10
"""Of a block of threads, on every card."""


def requests(bank: MaskBank) -> dict[str, Request]:
    """Every kind of model of a bank for target cuda, but screened and baked ones."""
    request = partial(Request, target="cuda")
    return {
        **{name: request(objective=name) for name in bank.objectives},
        **{kind: request(outputs=names) for kind, names in KINDS.items()},
        "rounded": request(scoring="rounded"),
        "rounded-infer": request(scoring="rounded", outputs=("task", "logits")),
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    made, folder = Models(), tmp_path_factory.mktemp("cuda")

    def path(*words: str) -> Path:
        name = "-".join(words)
        return made.setdefault(name, folder / f"{name}.onnx")

    for network in ("mlp-7-9", "cnn", "bnnet-65-33"):
        bank = make_bank(folder / network, network, outputs=20, real_outputs=6, tasks=9)
        for kind, request in requests(bank).items():
            export(bank, path(network, kind), request=request, check=False)
        export_task(bank, "task-0", path(network, "task"), check=False)
    shape = (1, 8, 8)
    pooled = create_bank(
        folder / "conv",
        make_model("conv-4-8", input_shape=shape, outputs=6),
        input_shape=shape,
        real_outputs=4,
    )
    export(filled(pooled, 2), path("conv"), request=Request(target="cuda"), check=False)
    bank = make_bank(folder / "many", "mlp-64-48", outputs=20, real_outputs=6, tasks=70)
    request = Request(target="cuda", scoring="screened")
    with pytest.MonkeyPatch.context() as patch:  # a network of several products per bit
        patch.setattr(scores, "_BLOCKS_AT_ONCE", MappingProxyType({"cuda": 2}))
        export(bank, path("screened"), request=request)  # checked: the sum is right
        export(bank, path("split"), request=Request(target="cuda"))
    for mode, moments in (("gray", (None, None)), ("rgb", (0.5, 0.25))):
        steps = Preprocessing(mode=mode, size=(8, 8), mean=moments[0], std=moments[1])  # type: ignore[arg-type]  # a literal
        bank = picture_bank(folder / mode, "mlp-7-9", steps, tasks=2)
        request = Request(target="cuda", preprocess="baked")
        export(bank, path("baked", mode), request=request, check=False)
    for dtype in ("float32", "float16"):
        bank = store_bank(folder / dtype, dtype=dtype)
        export_recovery(bank, path("recover", dtype), check=False)
        export_recovery(bank, path("stream", dtype), stream=True, check=False)
    return made


@pytest.fixture(scope="module")
def nodes(models: Models) -> dict[str, list[Placed]]:
    """Nodes as ONNX Runtime gives them to its providers: constants are folded."""
    return {name: list(placed(optimised(path, folded=True))) for name, path in models.items()}


def everything(nodes: dict[str, list[Placed]]) -> set[Placed]:
    return {node for each in nodes.values() for node in each}


def test_every_node_has_a_kernel_for_its_types(nodes: dict[str, list[Placed]]) -> None:
    """Extend the table, from ONNX Runtime's page, or name why the node does without."""
    without = {(node.op, node.types) for node in everything(nodes) if node.place == "no kernel"}
    assert without == set()


def test_what_has_none_is_folded(models: Models, nodes: dict[str, list[Placed]]) -> None:
    exported = {node for path in models.values() for node in placed(optimised(path, folded=False))}
    lacking = {(n.op, n.types[0][1]) for n in exported if n.place == "no kernel"}
    left = {(n.op, kind) for n in everything(nodes) for _, kind in n.types}
    assert lacking == FOLDED
    assert not FOLDED & left


def test_only_arithmetic_of_sizes_moves_to_the_host(nodes: dict[str, list[Placed]]) -> None:
    moved = [node for each in nodes.values() for node in each if node.place == "host"]
    assert {node.op for node in moved} == MOVED
    names = [f"CPUExecutionProvider {node.op}" for node in moved]
    assert unexpected([*names, "CUDAExecutionProvider MatMul"]) == []
    assert unexpected(["CPUExecutionProvider MatMul", *names]) == ["MatMul"]


def test_codes_fit_the_kernel_that_reads_them_packed(nodes: dict[str, list[Placed]]) -> None:
    """Others become float32 in each call: 0.7 GB for 2,500 tasks, four times."""
    products = [node.node for node in everything(nodes) if node.op == "MatMulNBits"]
    for node in products:
        sizes = {a.name: a.i for a in node.attribute}
        assert (sizes["bits"], sizes["accuracy_level"]) == (4, 1)
        assert sizes["block_size"] in {16, 32, 64, 128}
        assert (sizes["N"] % 8, sizes["K"] % 8) == (0, 0)
    assert products
    most = scores._BLOCKS_AT_ONCE["cuda"]
    assert 8 * 4 * most == SHARED_BYTES  # 8 rows, a float32 per block of 64 codes, of 256 weights


def test_few_values_cross_in_a_call(nodes: dict[str, list[Placed]]) -> None:
    """Conditions, sizes and counts; docs/GPU.md has the numbers."""
    names = ("mlp-7-9-known", "mlp-7-9-infer", "mlp-7-9-superfluous", "mlp-7-9-rounded")
    found = {name: sum(node.copies for node in nodes[name]) for name in names}
    text = ", ".join(f"{count} `{name[8:]}`" for name, count in found.items())
    assert text.replace("superfluous", "full") in PAGE.read_text().replace("\n", " ")


def where_nodes_ran() -> dict[str, str]:
    """Where nodes ran in the check on a GPU, by operator; CUDA's Shape and Size answer the host."""
    found = defaultdict[str, set[str]](set)
    for model in json.loads((DOCS / "results/gpu.json").read_text())["models"]:
        for node in model["nodes"]["cuda"]:
            provider, _, op = node.partition(" ")
            found[op].add("device" if provider.startswith("CUDA") else "host")
    return {op: " or ".join(sorted(places)) for op, places in found.items()}


def table(nodes: Iterable[Placed]) -> str:
    """Operators and types, and where they run."""
    kinds = defaultdict[str, dict[str, set[str]]](lambda: defaultdict(set))
    places = defaultdict[str, set[str]](set)
    for node in nodes:
        places[node.op].add(node.place)
        for name, kind in node.types:
            kinds[node.op][name].add(kind)
    for op, kind in FOLDED:
        places[op], kinds[op]["T"] = {"CPU, at load"}, {kind}
    ran = where_nodes_ran()
    lines = ["| operator | types | runs on | from the host | ran on |", "|---|---|---|---|---|"]
    special = {"If": "host chooses, device runs", "Loop": "host counts, device runs"}
    special |= {"Shape": "host", "Size": "host"}
    for op in sorted(places):
        types = sorted({kind for each in kinds[op].values() for kind in each})
        place = special.get(op) or " or ".join(sorted(places[op]))
        inputs = ", ".join(str(index) for index in HOST_INPUTS.get(op, ()))
        lines.append(f"| {op} | {', '.join(types)} | {place} | {inputs} | {ran.get(op, '')} |")
    return "\n".join(lines)


def test_the_page_has_the_table(nodes: dict[str, list[Placed]]) -> None:
    text = PAGE.read_text()
    found = text.partition("<!-- cuda -->\n")[2].partition("\n<!-- /cuda -->")[0]
    assert found == table(everything(nodes))


def test_a_kernel_takes_its_opsets_and_types_alone() -> None:
    cast = kernels()["Cast"]
    assert cast.takes(18, {"T1": "uint8", "T2": "int32"})
    assert not cast.takes(19, {"T1": "uint8", "T2": "int32"})
    assert not cast.takes(18, {"T1": "string", "T2": "int32"})
    assert not cast.takes(18, {"T3": "int32"})
    assert "BitwiseOr" not in kernels()


def test_kernels_of_an_installed_wheel_are_compared_with_the_table() -> None:
    def registered(op: str, last: int, **types: str) -> Any:  # noqa: ANN401 - as ONNX Runtime's
        constraints = {name: [f"tensor({kind})"] for name, kind in types.items()}
        domain, _, name = op.rpartition(".")
        return SimpleNamespace(
            provider="CUDAExecutionProvider",
            domain=domain,
            op_name=name,
            version_range=(1, last),
            type_constraints=constraints,
        )

    everything = [
        registered(op, 99, **{name: kind})
        for op, kernel in kernels().items()
        for name, kinds in kernel.types.items()
        for kind in kinds
    ]
    assert differing(everything) == []
    less = [each for each in everything if each.op_name not in {"Relu", "MatMulNBits"}]
    less += [
        registered("Relu", 17, T="float"),
        registered("com.microsoft.MatMulNBits", 99, T1="float"),
    ]
    assert differing(less) == [
        "Relu: no double, float, float16",
        "com.microsoft.MatMulNBits: no float16, uint8",
    ]
