"""All experiments, from the paper and beyond."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Literal

from tools.reproduction.accuracy import Accuracy
from tools.reproduction.capacity import Capacity
from tools.reproduction.experiment import Experiment
from tools.reproduction.hopfield import Hopfield
from tools.reproduction.learning import Bank
from tools.reproduction.measuring import Row
from tools.reproduction.methods import METHODS

from supsup_runtime.model.inference import Inference

ONE_SHOT = Inference(method="one-shot")
BINARY = Inference(method="binary")
GRADIENT = Inference(method="gradient")
VERIFIED = Inference(method="verified")
EXHAUSTIVE = Inference(method="exhaustive")
LOWEST_ENTROPY = Inference(method="exhaustive", score="entropy")
HIGHEST_PROBABILITY = Inference(method="exhaustive", score="max-probability")
SEEDS = (0, 100, 200)  # apart by more than the tasks: no permutation comes twice
TRAINING = (("optimizer", "adam"), ("batch-size", 64))
TRANSFERS: tuple[Literal["none", "masks", "scores"], ...] = ("none", "masks", "scores")

LENET = Bank(stream="permuted", tasks=250, model="lenet-300-100", outputs=100)
FC = Bank(stream="permuted", tasks=10, model="fc-1024-1024", outputs=500)
ROTATED = Bank(stream="rotated", tasks=36, model="fc-1024-1024", outputs=200)
DIGITS = Bank(stream="permuted", tasks=10, model="mlp-256-128", outputs=50, source="digits")
CIFAR = Bank(
    stream="split",
    tasks=5,
    model="gem-resnet18",
    outputs=20,
    source="cifar10",
    steps=600,
    lr=1e-3,
    options=TRAINING,
)
BASELINE = Bank(stream="permuted", tasks=10, model="lenet-300-100", outputs=10, lr=None)


def _plain(label: str, how: Inference, *banks: str, images: int = 100, batch: int = 1) -> Row:
    """Make a row where the objective does not matter."""
    return Row(label=label, banks=banks, objective="entropy", how=how, images=images, batch=batch)


def _known(label: str, bank: str) -> Row:
    """Make a row with the task known."""
    return _plain(label, EXHAUSTIVE, bank, images=0)


def _h(label: str, how: Inference, *banks: str, images: int = 100, batch: int = 1) -> Row:
    """Make a row with objective H (entropy)."""
    return _plain(f"{label}, H", how, *banks, images=images, batch=batch)


def _g(label: str, how: Inference, *banks: str, images: int = 100, batch: int = 1) -> Row:
    """Make a row with objective G (superfluous)."""
    row = _plain(f"{label}, G", how, *banks, images=images, batch=batch)
    return replace(row, objective="superfluous")


def _asking(row: Row, reference: str = "", **at_least: float) -> Row:
    """Add the authors' figure, and bars in percent."""
    return replace(row, reference=reference, at_least=tuple(at_least.items()))


def _both(row: Row) -> tuple[Row, Row]:
    """Make a row for H and one for G."""
    by_g = replace(row, label=f"{row.label}, G", objective="superfluous")
    return replace(row, label=f"{row.label}, H"), by_g


PERMUTED_250 = Accuracy(
    name="permuted-250",
    title="PermutedMNIST, LeNet 300-100, 100 outputs, 250 tasks, single images",
    banks={"shared": replace(LENET, shared="permuted-mnist-lenet-250")},
    rows=(
        *_both(
            _asking(
                _plain("one-shot", ONE_SHOT, "shared"), "GNu 93.63", unknown=93.5, inferred=99.7
            )
        ),
        _asking(_g("verified", VERIFIED, "shared"), inferred=99.9),
    ),
    differs="The masks were learned for this project by the paper's protocol.",
    figure="tasks",
    seconds=1200,
)

PERMUTED_2500 = Accuracy(
    name="permuted-2500",
    title="PermutedMNIST, LeNet 300-100, 500 outputs, 2500 tasks, single images",
    banks={"lenet": replace(LENET, tasks=2500, outputs=500)},
    rows=(
        *_both(_asking(_plain("one-shot", ONE_SHOT, "lenet", images=20), "GNu 93.45")),
        _g("verified", VERIFIED, "lenet", images=20),
    ),
    figure="tasks",
    seconds=4 * 3600,
)

PERMUTED_FC = Accuracy(
    name="permuted-fc",
    title="PermutedMNIST, FC 1024-1024, 500 outputs, 10 tasks, single images",
    banks={"fc": FC},
    rows=(
        *_both(_asking(_plain("one-shot", ONE_SHOT, "fc", images=1000), "GNu 96.28", unknown=96.2)),
        _asking(_g("verified", VERIFIED, "fc", images=1000), unknown=96.2),
    ),
    seconds=900,
)

ROTATED_36 = Accuracy(
    name="rotated-36",
    title="RotatedMNIST, FC 1024-1024, 200 outputs, 36 tasks of 10 degrees",
    banks={"fc": ROTATED},
    rows=(
        _asking(_h("binary, batch of 128", BINARY, "fc", images=640, batch=128), near=99.0),
        _h("one-shot, batch of 128", ONE_SHOT, "fc", images=640, batch=128),
        _h("gradient, batch of 128", GRADIENT, "fc", images=640, batch=128),
        _g("binary, batch of 128", BINARY, "fc", images=640, batch=128),
        _g("one-shot, batch of 128", ONE_SHOT, "fc", images=640, batch=128),
        _g("verified, batch of 128", VERIFIED, "fc", images=640, batch=128),
        _g("exhaustive by log-odds, batch of 128", EXHAUSTIVE, "fc", images=640, batch=128),
        _g("exhaustive by entropy, batch of 128", LOWEST_ENTROPY, "fc", images=640, batch=128),
        _g("verified, one image", VERIFIED, "fc", images=20),
    ),
    differs=(
        "The paper's method is binary with H; it gives no numbers, only that SupSup is above PSP "
        "and BatchE. Images are rotated with linear interpolation; corners are 0."
    ),
    seconds=2400,
)

NNS_100 = Accuracy(
    name="nns-100",
    title="NNs: PermutedMNIST without task names, LeNet 300-100, 500 outputs, single images",
    banks={"learner": replace(LENET, tasks=100, outputs=500, scenario="NNs")},
    rows=(_asking(_h("one-shot", ONE_SHOT, "learner", images=200), "93.49", shared=93.2),),
    differs="Until five masks are allocated, random masks, which no task gets, replace the others.",
    figure="tasks",
    seconds=1200,
)

NNS_2500 = replace(
    NNS_100,
    name="nns-2500",
    banks={"learner": replace(NNS_100.banks["learner"], tasks=2500)},
    rows=(_asking(_h("one-shot", ONE_SHOT, "learner", images=20), "93.49"),),
    seconds=4 * 3600,
)

SPLIT_5 = Accuracy(
    name="split-5",
    title="SplitMNIST, 5 tasks of 2 classes, LeNet 300-100, 100 outputs, single images",
    banks={"lenet": replace(LENET, stream="split", tasks=5)},
    rows=(
        _asking(_g("verified", VERIFIED, "lenet", images=1000), known=99.0),
        _g("exhaustive by log-odds", EXHAUSTIVE, "lenet", images=1000),
        _g("exhaustive by entropy", LOWEST_ENTROPY, "lenet", images=1000),
        *_both(_plain("one-shot", ONE_SHOT, "lenet", images=1000)),
        _g("verified, batch of 128", VERIFIED, "lenet", images=1000, batch=128),
        _g("exhaustive by log-odds, batch of 128", EXHAUSTIVE, "lenet", images=1000, batch=128),
    ),
    differs="The paper uses SplitMNIST for Hopfield recovery only.",
    seconds=200,
)


SPLIT_CIFAR10 = Accuracy(
    name="splitcifar10",
    title="SplitCIFAR10 of 10,000 pictures, 5 tasks of 2 classes, GEM-ResNet18",
    banks={
        "masks": replace(
            CIFAR,
            options=(
                *TRAINING,
                *(("rule", "top-k"), ("er", 16.0)),
                *(("lr-schedule", "cosine"), ("augment", "crop,flip")),
            ),
        ),
        "heads": replace(CIFAR, method="heads-random", lr=1e-2),
        "dense": replace(CIFAR, method="dense"),
    },
    rows=(
        _asking(_known("masks, c = 16", "masks"), known=80.0),
        _known("separate heads, random trunk", "heads"),
        _known("one network per task", "dense"),
        *(
            row
            for batch in (1, 16, 64)
            for row in (
                *_both(_plain(f"batch of {batch}: one-shot", ONE_SHOT, "masks", batch=batch)),
                *_both(_plain(f"batch of {batch}: binary", BINARY, "masks", batch=batch)),
                *_both(_plain(f"batch of {batch}: gradient", GRADIENT, "masks", batch=batch)),
                _g(f"batch of {batch}: verified", VERIFIED, "masks", batch=batch),
                _g(f"batch of {batch}: exhaustive by log-odds", EXHAUSTIVE, "masks", batch=batch),
                _g(
                    f"batch of {batch}: exhaustive by entropy", LOWEST_ENTROPY, "masks", batch=batch
                ),
            )
        ),
    ),
    differs="The paper has SplitCIFAR100, 250 epochs and 5 outputs; 600 steps of 64 are 19 epochs.",
    seconds=3600,
)


def _digits() -> Accuracy:
    banks: dict[str, Bank] = {}
    rows: list[Row] = []
    settings = product((1e-4, 1e-3), ("256-128", "512-256"), (300, 1000))
    for rate, widths, steps in settings:
        keys = tuple(f"{widths}-{steps}-{rate:g}-seed-{seed}" for seed in SEEDS)
        banks |= {
            key: replace(DIGITS, model=f"mlp-{widths}", steps=steps, lr=rate, seed=seed)
            for key, seed in zip(keys, SEEDS, strict=True)
        }
        name = f"{widths}, {steps} steps at {rate:g}"
        rows += [
            *_both(_plain(f"{name}: one-shot", ONE_SHOT, *keys, images=360)),
            _asking(_g(f"{name}: verified", VERIFIED, *keys, images=360), inferred=99.0),
            _g(f"{name}: exhaustive by log-odds", EXHAUSTIVE, *keys, images=360),
            _g(f"{name}: exhaustive by entropy", LOWEST_ENTROPY, *keys, images=360),
        ]
    return Accuracy(
        name="digits",
        title="Bundled digits, permuted, 10 tasks, 50 outputs, 3 seeds, single images",
        banks=banks,
        rows=tuple(rows),
        differs="Not in the paper. RMSprop at the paper's rate, 1e-4, and at ten times that.",
        seconds=3000,
    )


DIGITS_MIXED = Accuracy(
    name="digits-mixed",
    title="Bundled digits, 50 tasks of mixed kind, 64-256-128-50, single images",
    banks={"mixed": replace(DIGITS, stream="mixed", tasks=50, lr=1e-3)},
    rows=(
        _g("verified", VERIFIED, "mixed"),
        _g("verified, 8 candidates", Inference(method="verified", candidates=8), "mixed"),
        _g("exhaustive by log-odds", EXHAUSTIVE, "mixed"),
        _g("exhaustive by entropy", LOWEST_ENTROPY, "mixed"),
        *_both(_plain("one-shot", ONE_SHOT, "mixed")),
    ),
    differs="Not in the paper. RMSprop at 1e-3, 1000 steps.",
    seconds=400,
)

OUTPUTS = Accuracy(
    name="outputs-ablation",
    title="PermutedMNIST, LeNet 300-100, 100 tasks, by number of outputs s, single images",
    banks={f"s-{s}": replace(LENET, tasks=100, outputs=s) for s in (25, 100, 200)},
    rows=tuple(
        row
        for s in (25, 100, 200)
        for row in _both(_plain(f"s = {s}: one-shot", ONE_SHOT, f"s-{s}"))
    ),
    differs="The paper's figure gives no numbers; it shows that more outputs are better.",
    seconds=2400,
)

TRANSFER = Accuracy(
    name="transfer",
    title="RotatedMNIST, FC 1024-1024, 36 tasks, 200 steps per task, by the start of scores",
    banks={f"transfer-{kind}": replace(ROTATED, steps=200, transfer=kind) for kind in TRANSFERS},
    rows=tuple(
        _h(f"transfer: {kind}", BINARY, f"transfer-{kind}", images=128, batch=128)
        for kind in TRANSFERS
    ),
    differs=(
        "The paper transfers on SplitCIFAR100. `masks` starts from the mean of masks (paper), "
        "`scores` from the mean of scores (its code)."
    ),
    seconds=1500,
)

BATCHE = Accuracy(
    name="batche",
    title="BatchE: PermutedMNIST, LeNet 300-100, 10 tasks, single images",
    banks={
        "batche": replace(BASELINE, method="batche"),
        "random": replace(BASELINE, method="batche-random"),
        "outputs-100": replace(BASELINE, method="batche", outputs=100),
        "matrices": replace(BASELINE, method="batche", outputs=100, matrices=True),
    },
    rows=(
        _asking(
            _plain("ABatchE, lowest entropy", LOWEST_ENTROPY, "batche"), "GG 88.86", known=88.16
        ),
        _plain("ABatchE, highest probability", HIGHEST_PROBABILITY, "batche"),
        _h("one-shot over vectors", ONE_SHOT, "batche"),
        _plain("random weights; ABatchE, lowest entropy", LOWEST_ENTROPY, "random"),
        _h("100 outputs; one-shot over vectors", ONE_SHOT, "outputs-100"),
        _h("100 outputs; one-shot over rank-one matrices", ONE_SHOT, "matrices"),
        _g("100 outputs; one-shot over rank-one matrices", ONE_SHOT, "matrices"),
        _plain("100 outputs; ABatchE, lowest entropy", LOWEST_ENTROPY, "outputs-100"),
    ),
    differs="The paper's one-shot variant has FC and 500 outputs; its figure gives no numbers.",
    seconds=400,
)

PSP = Accuracy(
    name="psp",
    title="PSP, separate heads and the bounds: PermutedMNIST, LeNet 300-100, 10 tasks, task known",
    banks={
        "psp": replace(BASELINE, method="psp"),
        "heads": replace(BASELINE, method="heads"),
        "heads-random": replace(BASELINE, method="heads-random"),
        "dense": replace(BASELINE, method="dense"),
        "sequence": replace(BASELINE, method="sequence"),
        "masks": replace(LENET, tasks=10),
    },
    rows=(
        _asking(_known("PSP, rotation contexts", "psp"), "GG 94.7", known=94.0),
        _known("separate heads, trained trunk", "heads"),
        _known("separate heads, random trunk", "heads-random"),
        _asking(_known("one network per task (upper bound)", "dense"), "94.94"),
        _asking(
            _known("one network, in sequence (lower bound)", "sequence"),
            "about 72 after 10 tasks",
        ),
        _known("masks", "masks"),
    ),
    seconds=600,
)

HOPFIELD = Hopfield(
    name="hopfield",
    title="HopSupSup: SplitMNIST, 5 tasks, BNNet 2048-2048, masks recovered from streams",
    model="bnnet-2048-2048",
    differs="The paper does not look ahead; it reports 97.43 % on average.",
    seconds=5400,
)

CAPACITY = Capacity(
    name="capacity",
    title="Hopfield store: random and trained patterns recovered, by load",
    banks={"trained": PERMUTED_250.banks["shared"]},
    differs="Not in the paper. Trained patterns are runs of a mask of weights.",
    seconds=300,
)

CAPACITY_DENSITY = Capacity(
    name="capacity-density",
    title="Hopfield store: random patterns recovered, by density",
    densities=(0.35, 0.2),
    differs="Not in the paper.",
    seconds=600,
)

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        PERMUTED_250,
        PERMUTED_2500,
        PERMUTED_FC,
        ROTATED_36,
        NNS_100,
        NNS_2500,
        BATCHE,
        PSP,
        SPLIT_5,
        SPLIT_CIFAR10,
        _digits(),
        DIGITS_MIXED,
        OUTPUTS,
        TRANSFER,
        HOPFIELD,
        CAPACITY,
        CAPACITY_DENSITY,
        METHODS,
    )
}
"""By name, in the order of `--list`."""
