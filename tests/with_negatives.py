"""Banks and streams to learn with negatives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.own import Tasks, read_tasks
from supsup_runtime.data.streams import Stream, make_stream
from supsup_train import Negatives, Recipe
from supsup_train.masks.negatives import TaskNegatives
from tiny_streams import pictures

RECIPE = Recipe(steps=6, batch_size=12, learning_rate=1e-2)
ALONE = "turned,shuffled"


def bank_of(
    path: Path, stream: Tasks, *, outputs: int = 9, model: str = "mlp-6"
) -> tuple[MaskBank, nn.Module]:
    module = st.make_model(model, input_shape=stream.input_shape, outputs=outputs)
    return (
        st.create_bank(
            path, module, input_shape=stream.input_shape, real_outputs=stream.real_outputs
        ),
        module,
    )


def flat(**options: Any) -> Stream:
    """Split tasks of pictures, as flat inputs."""
    made = pictures(**{"tasks": 3, "classes": 6, **options})
    return make_stream("split", made.dataset, num_tasks=made.num_tasks)


def learned(path: Path, stream: Tasks, negatives: str, **options: Any) -> MaskBank:
    bank, module = bank_of(path, stream)
    recipe = replace(RECIPE, negatives=negatives)
    st.train_stream(bank, module, stream, recipe=recipe, **options)
    return bank


def drawn(path: Path, stream: Tasks, recipe: Recipe, index: int = 0) -> TaskNegatives:
    bank, _ = bank_of(path, stream)
    return Negatives(bank, stream, recipe).of(stream.task(index))


def own_pictures(folder: Path, names: str = "ab") -> Tasks:
    """Own tasks of small pictures, two classes each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for task in names:
        for label in "xy":
            (folder / task / label).mkdir(parents=True)
            for i in range(8):
                values = rng.integers(0, 256, (8, 8)).astype(np.uint8)
                Image.fromarray(values).save(folder / task / label / f"{i}.png")
    return read_tasks(folder, layout="flat")
