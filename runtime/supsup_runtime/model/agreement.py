"""Compare a model's graph and forward program with its metadata.

A graph may compute other shapes than it declares, so those are compared with every answer
(`Session.answer`).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from supsup_runtime.errors import ModelError
from supsup_runtime.model.inputs import blank
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.session import Declared, Session

_FLOAT, _INT64, _BOOL = "tensor(float)", "tensor(int64)", "tensor(bool)"
_PICTURES = "tensor(uint8)", (None, None, None, None)
_REQUIRED = {
    "full": {"logits", "task", "task_scores", "parameters"},
    "recover": {"entropy", "energy", "gradient"},
}
"""Outputs that a mode always has."""
Tensor: TypeAlias = tuple[str, tuple[int | None, ...]]
"""Type and shape; None is any length."""


def check_agreement(info: ModelInfo, session: Session, forward: Session) -> None:
    """Refuse a model whose graph or forward program is not what its metadata say.

    Raises:
        ModelError: If inputs, outputs, their types or sizes, or the number of tasks differ.
    """
    network = info.network
    _compare_inputs(session, _inputs(info))
    _compare_outputs(session, _outputs(info), _REQUIRED.get(info.mode, set()))
    weights: dict[str, Tensor] = {t.name: (_FLOAT, t.shape) for t in network.parameters}
    weights |= {t.name: (_FLOAT, t.shape) for t in network.state}
    _compare_inputs(forward, {"x": _x(info)} | weights)
    _compare_outputs(forward, {"logits": (_FLOAT, (None, network.outputs))}, {"logits"})
    if info.mode in {"full", "known"}:
        _select_last_task(info, session)


def _x(info: ModelInfo) -> Tensor:
    return _FLOAT, (None, *info.network.input_shape)


def _inputs(info: ModelInfo) -> dict[str, Tensor]:
    wanted: dict[str, Tensor] = {"x": _PICTURES if info.baked else _x(info)}
    if info.mode in {"full", "known"}:
        wanted |= {"tasks": (_INT64, (None,)), "alphas": (_FLOAT, (None,))}
    if info.mode == "full":
        wanted["infer"] = _BOOL, ()
    if info.mode == "recover":
        wanted["mask"] = _FLOAT, (info.network.num_masked,)
        wanted["entropy_strength"] = wanted["energy_strength"] = _FLOAT, ()
        if info.network.state:
            wanted["state"] = _FLOAT, (info.network.num_state,)
    return wanted


def _outputs(info: ModelInfo) -> dict[str, Tensor]:
    network = info.network
    flat: Tensor = _FLOAT, (network.num_masked,)
    logits: Tensor = _FLOAT, (None, network.outputs)
    if info.mode == "recover":
        scalar: Tensor = _FLOAT, ()
        return {"logits": logits, "entropy": scalar, "energy": scalar, "gradient": flat}
    infers = info.mode == "infer"
    return {
        "logits": logits,
        "task": (_INT64, (1 if infers else None,)),
        "task_scores": (_FLOAT, (len(info.tasks) if infers else None,)),
        "parameters": flat,
        "state": (_FLOAT, (network.num_state,)),
        "log_odds": (_FLOAT, (None,)),
    }


def _compare_inputs(session: Session, wanted: dict[str, Tensor]) -> None:
    needed = set(session.inputs) - session.optional
    if not needed <= set(wanted) <= set(session.inputs):
        raise _contradiction(session, "inputs", sorted(wanted), sorted(needed))
    for name, tensor in wanted.items():
        if not _fits(session.inputs[name], tensor, any_length=False):
            raise _contradiction(session, f"input {name}", tensor, session.inputs[name])


def _compare_outputs(session: Session, wanted: dict[str, Tensor], required: set[str]) -> None:
    declared = {name: session.outputs[name] for name in wanted if name in session.outputs}
    if not declared or not required <= set(declared):
        expected = sorted(required or wanted)
        raise _contradiction(session, "outputs", expected, sorted(session.outputs))
    for name, got in declared.items():
        if not _fits(got, wanted[name], any_length=True):
            raise _contradiction(session, f"output {name}", wanted[name], got)


def _fits(declared: Declared, wanted: Tensor, *, any_length: bool) -> bool:
    """Return whether types and known sizes agree.

    `any_length`: an axis of any length may also be declared with a fixed one.
    """
    sizes = list(zip(declared[1], wanted[1], strict=False))
    return (
        declared[0] == wanted[0]
        and len(declared[1]) == len(wanted[1])
        and all(
            got == want or not isinstance(got, int) or (want is None and any_length)
            for got, want in sizes
        )
    )


def _contradiction(session: Session, what: str, expected: object, got: object) -> ModelError:
    return ModelError(
        f"{session.place}: the graph contradicts its metadata: {what} must be {expected!s:.200}, "
        f"got {got!s:.200}; export the bank again"
    )


def _select_last_task(info: ModelInfo, session: Session) -> None:
    """Select the last task on a batch of no rows, which runs no network."""
    network = info.network
    shapes = {
        "logits": (0, network.outputs),
        "task": (1,),
        "task_scores": (0,),
        "parameters": (network.num_masked,),
        "state": (network.num_state,),
        "log_odds": (0,),
    }
    feeds = {
        "x": blank(info, 0),
        "tasks": np.array([len(info.tasks) - 1]),
        "alphas": np.ones(1, np.float32),
        "infer": np.array(False),
    }
    session.fetch(
        {name: shape for name, shape in shapes.items() if name in session.outputs},
        {name: value for name, value in feeds.items() if name in session.inputs},
    )
