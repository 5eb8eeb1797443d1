"""Bytes of ResNet-50's tasks with random masks of ER density, and the time to read one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tools.benchmarks.timing import Candidate, Result, Row, Setup, measure

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import MaskedParameter, Network, StateTensor
from supsup_runtime.bank.task import TaskMasks, encode_task, make_task
from supsup_runtime.hopfield.storage import storage as storage_of
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.rules import Rule

CLASSES = 10
"""Outputs of a task of SplitImageNet."""
BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Width and number of the bottleneck blocks of each stage."""
SHOWN = ("explicit", "bound", "csc", "packed", "float")
"""Keys of `storage_of`, without ``_bytes``."""


def storage(setup: Setup, *, tasks: int, er: Sequence[int], state: str) -> Result:
    """Fill a bank for each ER multiplier, and time reading one task; headers are by format."""
    rows: list[Row] = []
    network = resnet50(state)
    for multiplier in er:
        rule = Rule(kind="top-k", density=multiplier, budget="er")
        with tempfile.TemporaryDirectory() as folder:
            bank = MaskBank.create(Path(folder) / "masks", network, forward=b"not run")
            bank.extend(random_task(network, rule, index) for index in range(tasks))
            found, task = storage_of(bank), bank.task(0)
            (timed,) = measure([Candidate(name="read", call=bank.verify)], setup)
            files = [encode_task(task, network, bank.digest, version=n) for n in (1, 2)]
        state_bytes = found["task_bytes"] - sum(map(len, task.masks.values()))
        heads = [8 + int.from_bytes(data[:8], "little") for data in files]
        rows.append(
            {
                "er": multiplier,
                "density": found["by_task"][0]["density"],
                **{f"{key}_MB": found[f"{key}_bytes"] / 1e6 for key in SHOWN},
                "ratio": (found["explicit_bytes"] / tasks - heads[1] - state_bytes)
                / (found["bound_bytes"] / tasks - state_bytes),
                "header_1": heads[0],
                "header_2": heads[1],
                "read_ms": timed["ms"] / tasks,
                "Mweights/s": network.num_masked * tasks / timed["ms"] / 1e3,
            }
        )
    sizes = {"weights": network.num_masked, "state_elements": network.num_state}
    ratio = "stored masks to their entropy, without state and header"
    return Result(rows=rows, ratio=ratio, settings=sizes)


def resnet50(state_dtype: str) -> Network:
    """Return the network of SplitImageNet: without biases, batch normalisation without scales."""
    parameters, state = [], []
    for name, shape in _layers():
        parameters.append(MaskedParameter.signed_kaiming(f"{name}.weight", shape))
        if name != "fc":
            norm = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
            state += [(f"{norm}.running_{kind}", shape[:1]) for kind in ("mean", "var")]
    return Network(
        weight_seed=0,
        input_shape=(3, 224, 224),
        outputs=CLASSES,
        real_outputs=CLASSES,
        parameters=tuple(parameters),
        state=tuple(StateTensor(name=name, shape=shape) for name, shape in state),
        state_dtype=state_dtype,
    )


def _layers() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "conv1", (64, 3, 7, 7)
    inputs = 64
    for stage, (width, count) in enumerate(BLOCKS, start=1):
        for number in range(count):
            block = f"layer{stage}.{number}"
            yield f"{block}.conv1", (width, inputs, 1, 1)
            yield f"{block}.conv2", (width, width, 3, 3)
            yield f"{block}.conv3", (4 * width, width, 1, 1)
            if number == 0:
                yield f"{block}.downsample.0", (4 * width, inputs, 1, 1)
            inputs = 4 * width
    yield "fc", (CLASSES, inputs)


def random_task(network: Network, rule: Rule, seed: int) -> TaskMasks:
    """Return a task as trained by top-k, but for random masks and statistics."""
    rng = np.random.default_rng(seed)
    masks = {}
    densities = rule.densities([p.shape for p in network.parameters])
    for parameter, density in zip(network.parameters, densities, strict=True):
        mask = np.zeros(parameter.size, np.bool_)
        ones = round(density * parameter.size)
        mask[rng.choice(parameter.size, ones, replace=False, shuffle=False)] = True
        masks[parameter.name] = mask.reshape(parameter.shape)
    state = {s.name: rng.random(s.shape, np.float32) for s in network.state}
    labels = tuple(f"n{rng.integers(10**8):08d}" for _ in range(CLASSES))
    record = {"accuracy": 0.5, "recipe": asdict(Recipe(rule=rule))}
    return make_task(f"split-{seed:04d}", masks, state=state, labels=labels, training=record)
