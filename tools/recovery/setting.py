"""What is learned, stored and recovered: the paper's setting, and the same in seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream, make_stream
from supsup_runtime.recovery.descent import Recovery

__all__ = ["PAPER", "TINY", "Setting", "Way", "ways"]

STREAM = "split"
LABELS = "shared"
OUTPUTS = 10
OPTIONS = "--optimizer sgd --lr 0.1 --schedule cosine --weight-decay 1e-4 --score-init zeros"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all numbers depend on, data, seeds and orders aside.

    Attributes:
        model: Name of the network.
        tasks: Number of tasks of the stream.
        steps: Batches a task is learned from.
        batch: Inputs of a step of recovery.
        small_batch: The same where small batches are tried.
        judged: Whether the numbers are held against what is asked for.
    """

    model: str
    tasks: int
    steps: int
    batch: int
    small_batch: int
    judged: bool

    def training(self, data: str, seed: int, bank: Path) -> list[str]:
        """The arguments of `supsup-train`."""
        words = [STREAM, "--data", data, "--tasks", str(self.tasks), "--labels", LABELS]
        words += ["--model", self.model, "--outputs", str(OUTPUTS), *OPTIONS.split()]
        words += ["--steps", str(self.steps), "--seed", str(seed), "--weight-seed", str(seed)]
        return [*words, "--bank", str(bank)]

    def stream(self, data: str) -> Stream:
        """The stream that banks are learned from; split streams have no seed."""
        return make_stream(STREAM, load_dataset(data), num_tasks=self.tasks, labels=LABELS)

    def told(self) -> dict[str, Any]:
        """All of it, as JSON values, with the recovery's own settings."""
        recovery = Recovery()
        return {
            **asdict(self),
            "recovery": {field.name: getattr(recovery, field.name) for field in fields(recovery)},
            "training": " ".join(self.training("DATA", 0, Path("BANK"))),
        }


PAPER = Setting(model="bnnet-2048-2048", tasks=5, steps=94, batch=64, small_batch=8, judged=True)
TINY = Setting(model="bnnet-64-64", tasks=5, steps=20, batch=16, small_batch=8, judged=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How streams are recovered.

    Attributes:
        batch: Inputs of a step.
        start: As `Recovery` has it.
        look_every: As `Recovery` has it; the paper never looks before the end.
        everywhere: With all seeds and orders; else with the first seed and order alone.
    """

    batch: int
    start: Literal["mean", "zero"] = "mean"
    look_every: int = 1
    everywhere: bool = False

    @property
    def name(self) -> str:
        """In tables, and of the measurements on disk."""
        batches = "single images" if self.batch == 1 else f"batches of {self.batch}"
        looks = "" if self.look_every else ", no looks"
        return f"{batches}, from {self.start}{looks}"


def ways(setting: Setting) -> tuple[Way, ...]:
    """The way that the setting is about, the paper's, then others beside them."""
    return (
        Way(batch=setting.batch, everywhere=True),
        Way(batch=setting.batch, look_every=0, everywhere=True),
        Way(batch=setting.batch, start="zero", everywhere=True),
        Way(batch=setting.small_batch),
        Way(batch=1),
    )
