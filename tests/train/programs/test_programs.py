from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from networks import NETWORKS, NoForward, NoGradient, Tied, make_network
from supsup_train.networks.models import Mlp
from supsup_train.programs.programs import ProgramError, Programs, export_programs

TOLERANCE = 1e-5
OBJECTIVES = ("entropy", "superfluous")


@dataclass(frozen=True)
class Exported:
    name: str
    module: nn.Module
    programs: Programs
    parameters: list[str]
    state: list[str]


SLOW = {"lstm", "gru", "transformer", "attention", "pooled"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NETWORKS],
)
def each(request: pytest.FixtureRequest) -> Exported:
    """Export each network once for all tests."""
    return export_all(request.param, make_network(request.param))


def export_all(name: str, module: nn.Module) -> Exported:
    network = NETWORKS[name]
    parameters = [key for key, _ in module.named_parameters()]
    state = [key for key, _ in module.named_buffers() if "running" in key]
    programs = export_programs(
        module,
        input_shape=network.input_shape,
        parameters=parameters,
        state=state,
        real_outputs=network.real_outputs,
    )
    return Exported(name, module, programs, parameters, state)


def gradient_of(programs: Programs) -> bytes:
    assert programs.gradient is not None
    return programs.gradient


def tiny(module: nn.Module | None = None, **changes: object) -> Programs:
    module = module or nn.Sequential(nn.Linear(4, 3))
    arguments: dict[str, object] = {
        "input_shape": (4,),
        "parameters": [key for key, _ in module.named_parameters()],
        "state": [],
        "real_outputs": 2,
    }
    return export_programs(module, **(arguments | changes))  # type: ignore[arg-type]  # by name


def run(program: bytes, x: Tensor, tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    feeds = {"x": x.numpy()} | {key: value.numpy() for key, value in tensors.items()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def reference(
    module: nn.Module, x: Tensor, names: list[str], real: int
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Return the logits and the gradients of both objectives by autograd."""
    free = {
        key: tensor.detach().clone().requires_grad_()
        for key, tensor in [*module.named_parameters(), *module.named_buffers()]
        if key in names
    }
    z = plain_forward(module, free, x)
    entropy = -(z.softmax(1) * z.log_softmax(1)).sum(1).mean()
    superfluous = torch.cat([z[:, :real].detach(), z[:, real:]], 1).logsumexp(1).mean()
    found: dict[str, np.ndarray] = {}
    for objective, value in zip(OBJECTIVES, (entropy, superfluous), strict=True):
        grads = torch.autograd.grad(
            value, [free[key] for key in names], retain_graph=True, materialize_grads=True
        )
        found |= {f"{objective}.{k}": g.numpy() for k, g in zip(names, grads, strict=True)}
    return z.detach(), found


def plain_batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Eval mode as a formula, since torch cannot differentiate running statistics."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    shape = (1, -1, *[1] * (x.dim() - 2))
    y = (x - mean.view(shape)) / (var.view(shape) + norm.eps).sqrt()
    return y * norm.weight.view(shape) + norm.bias.view(shape) if norm.affine else y


def plain_forward(module: nn.Module, free: dict[str, Tensor], x: Tensor) -> Tensor:
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    with pytest.MonkeyPatch.context() as patch:
        for norm in norms:
            patch.setattr(norm, "forward", lambda x, norm=norm: plain_batch_norm(norm, x))
        logits: Tensor = torch.func.functional_call(module, free, (x,))
    return logits


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30))


def test_onnx_computes_what_autograd_computes(each: Exported) -> None:
    network = NETWORKS[each.name]
    names = each.parameters + each.state
    known = dict(each.module.named_parameters()) | dict(each.module.named_buffers())
    tensors = {key: known[key].detach() for key in names}
    errors: dict[str, float] = {}
    for batch in (1, 3, 8):
        torch.manual_seed(batch)
        x = torch.randn(batch, *network.input_shape)
        logits, gradients = reference(each.module.eval(), x, names, network.real_outputs)
        got = run(each.programs.forward, x, tensors)
        got |= run(gradient_of(each.programs), x, tensors)
        expected = {"logits": logits.numpy()} | gradients
        assert list(got) == list(expected)
        for key, value in expected.items():
            # The gradient of a tensor that the logits do not depend on is rounding errors only.
            nothing = np.abs(value).max() < 1e-7 and np.abs(got[key]).max() < 1e-7
            errors[f"{key}@{batch}"] = 0.0 if nothing else relative_error(got[key], value)
    print(each.name, max(errors, key=errors.__getitem__), max(errors.values()))  # noqa: T201 (seen with -s)
    assert {key: error for key, error in errors.items() if not error <= TOLERANCE} == {}


def test_programs_are_plain_onnx(each: Exported) -> None:
    network = NETWORKS[each.name]
    names = each.parameters + each.state
    wanted = [f"{objective}.{key}" for objective in OBJECTIVES for key in names]
    for program, outputs in (
        (each.programs.forward, ["logits"]),
        (gradient_of(each.programs), wanted),
    ):
        model = onnx.load_model_from_string(program)
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == 8
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
        assert not model.functions
        assert not model.metadata_props
        assert not model.doc_string
        assert not model.graph.doc_string
        assert not model.graph.metadata_props
        assert not model.graph.value_info
        for node in model.graph.node:
            assert node.domain == ""
            assert not node.doc_string
            assert not node.metadata_props
        assert [value.name for value in model.graph.input] == ["x", *names]
        assert [value.name for value in model.graph.output] == outputs
        x = model.graph.input[0].type.tensor_type.shape.dim
        assert x[0].dim_param == "batch"
        assert tuple(dim.dim_value for dim in x[1:]) == network.input_shape


@pytest.mark.parametrize("each", ["lenet", "smooth", "cnn"], indirect=True)
def test_same_module_gives_same_bytes_whatever_its_inputs_hold(each: Exported) -> None:
    module = make_network(each.name)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.25)
    assert export_all(each.name, module).programs == each.programs


def test_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout())
    module.train()
    module[1].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    flags = [each.training for each in module.modules()]
    names = [key for key, _ in module.named_parameters()]
    tiny(module, parameters=names, state=["1.running_mean", "1.running_var"])
    assert [each.training for each in module.modules()] == flags
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_unused_parameters_are_inputs_with_zero_gradients() -> None:
    module = Tied()
    programs = tiny(module)
    tensors = {key: tensor.detach() for key, tensor in module.named_parameters()}
    assert list(tensors) == ["spare", "head.weight", "head.bias"]
    x = torch.randn(3, 4)
    run(programs.forward, x, tensors)
    for program in (programs.forward, gradient_of(programs)):
        graph = onnx.load_model_from_string(program).graph
        assert [value.name for value in graph.input] == ["x", *tensors]
    gradients = run(gradient_of(programs), x, tensors)
    for objective in OBJECTIVES:
        assert gradients[f"{objective}.spare"].shape == (3, 2)
        assert not gradients[f"{objective}.spare"].any()


def test_tensors_not_named_are_constants() -> None:
    programs = tiny(Tied(), parameters=["head.weight"], state=[])
    graph = onnx.load_model_from_string(gradient_of(programs)).graph
    assert [value.name for value in graph.input] == ["x", "head.weight"]
    assert {value.name for value in graph.output} == {f"{o}.head.weight" for o in OBJECTIVES}


def test_entropy_alone_without_superfluous_outputs() -> None:
    graph = onnx.load_model_from_string(gradient_of(tiny(real_outputs=3))).graph
    assert [value.name for value in graph.output] == ["entropy.0.weight", "entropy.0.bias"]


def test_entropy_is_exact_where_outputs_are_nearly_uniform() -> None:
    module = Mlp([4, 6, 5])
    tensors = {key: 1e-3 * tensor.detach() for key, tensor in module.named_parameters()}
    x = torch.randn(8, 4)
    got = run(gradient_of(tiny(module)), x, tensors)
    free = {key: tensor.double().requires_grad_() for key, tensor in tensors.items()}
    z = torch.func.functional_call(module, free, (x.double(),))
    entropy = -(z.softmax(1) * z.log_softmax(1)).sum(1).mean()
    for key, expected in zip(free, torch.autograd.grad(entropy, [*free.values()]), strict=True):
        assert relative_error(got[f"entropy.{key}"], expected.numpy()) < TOLERANCE


def test_products_with_a_vector_are_right_in_onnx_runtime() -> None:
    """ONNX Runtime fuses a transpose into the product, and then computes another one."""

    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vector = nn.Parameter(torch.randn(3))
            self.weight = nn.Parameter(torch.randn(6, 5))

        def forward(self, x: Tensor) -> Tensor:
            seen = x.view(-1, 3, 6).mT @ self.vector
            return seen @ self.weight + torch.mv(self.weight.mT, self.weight.mean(1))

    module, x = Products(), torch.randn(4, 18)
    programs = tiny(module, input_shape=(18,))
    tensors = {key: tensor.detach() for key, tensor in module.named_parameters()}
    logits, gradients = reference(module, x, list(tensors), 2)
    got = run(programs.forward, x, tensors) | run(gradient_of(programs), x, tensors)
    for key, value in ({"logits": logits.numpy()} | gradients).items():
        assert relative_error(got[key], value) < TOLERANCE, key


def test_forward_that_onnx_cannot_express_is_refused() -> None:
    with pytest.raises(ProgramError, match=r"aten\._linalg_eigh\S* .*; replace it in the module$"):
        tiny(NoForward())


def test_gradient_that_onnx_cannot_express_is_refused() -> None:
    with pytest.raises(ProgramError, match=r"aten\.linalg\S* .*or pass require_gradient=False"):
        tiny(NoGradient())


def test_gradient_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="supsup_train"):
        programs = tiny(NoGradient(), require_gradient=False)
    assert programs.gradient is None
    onnx.checker.check_model(onnx.load_model_from_string(programs.forward), full_check=True)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "exported the forward program alone" in record.getMessage()
    assert "aten." in record.getMessage()


@pytest.mark.parametrize("module", [nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)))])
def test_logits_of_another_shape_are_refused(module: nn.Module) -> None:
    with pytest.raises(ProgramError, match=r"must be float32 \(batch, outputs\), got"):
        tiny(module)


@pytest.mark.parametrize("real_outputs", [0, -1, 4])
def test_real_outputs_out_of_range_are_refused(real_outputs: int) -> None:
    with pytest.raises(ProgramError, match=rf"must be in \[1, 3\].* got {real_outputs}"):
        tiny(real_outputs=real_outputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": ["0.wieght"]}, "no parameter is named '0.wieght'"),
        ({"state": ["running_mean"]}, "no parameter or buffer is named 'running_mean'"),
        ({"parameters": []}, "name at least one parameter"),
        ({"state": ["0.weight"]}, "one occurs twice"),
    ],
)
def test_names_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        tiny(None, **changes)


def test_the_optimizer_leaves_out_what_takes_quadratic_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from onnxscript import optimizer, rewriter

    def names() -> set[str | None]:
        return {rule.name for rule in rewriter._DEFAULT_REWRITE_RULES}

    seen, optimize = [], optimizer.optimize

    def optimized(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
        seen.append(names())
        return optimize(model, **options)

    monkeypatch.setattr(optimizer, "optimize", optimized)
    before = names()
    network = NETWORKS["lenet"]
    programs = export_programs(
        network.make(),
        input_shape=network.input_shape,
        parameters=[f"layers.{i}.weight" for i in range(3)],
        state=[],
        real_outputs=network.real_outputs,
    )
    assert programs.gradient
    assert names() == before
    assert [before - each for each in seen] == [{"SlicesSplit"}] * 2
