"""Real banks, made once a test run: programs from torch, random masks."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from conftest import random_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.preprocessing import Preprocessing
from supsup_train.networks.create_bank import create_bank
from supsup_train.networks.models import make_model

Shape = tuple[int, ...]
INPUTS: dict[str, Shape] = {
    "mlp-7-9": (5,),
    "mlp-64-48": (30,),
    "lenet-300-100": (784,),
    "cnn": (1, 8, 8),
    "bnnet-65-33": (30,),
}
_FOLDER = TemporaryDirectory()


def make_bank(path: Path, model: str, *, outputs: int, real_outputs: int, tasks: int) -> MaskBank:
    """A bank of random masks, and of random positive state."""
    forward, gradient, network = programs(model, outputs, real_outputs)
    return filled(MaskBank.create(path, network, forward=forward, gradient=gradient), tasks)


def picture_bank(path: Path, model: str, steps: Preprocessing, *, tasks: int) -> MaskBank:
    """A bank of random masks, with preprocessing, to flat inputs unless `model` is a CNN."""
    shape = steps.output_shape if model == "cnn" else (math.prod(steps.output_shape),)
    module = make_model(model, input_shape=shape, outputs=6)
    return filled(
        create_bank(path, module, input_shape=shape, real_outputs=4, preprocessing=steps), tasks
    )


def filled(bank: MaskBank, tasks: int) -> MaskBank:
    network = bank.network
    for index in range(tasks):
        task = random_task(network, f"task-{index}", seed=index)
        state = {name: np.abs(value) + np.float32(0.5) for name, value in task.state.items()}
        bank.add(type(task)(name=task.name, masks=task.masks, state=state, labels=task.labels))
    return bank


@cache
def programs(model: str, outputs: int, real_outputs: int) -> tuple[bytes, bytes, Network]:
    """Forward and gradient program of a model, and its description."""
    module = make_model(model, input_shape=INPUTS[model], outputs=outputs)
    folder = Path(_FOLDER.name) / f"{model}-{outputs}-{real_outputs}"
    bank = create_bank(folder, module, input_shape=INPUTS[model], real_outputs=real_outputs)
    assert bank.gradient is not None
    return bank.forward, bank.gradient, bank.network
