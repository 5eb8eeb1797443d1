"""Options that the commands of training have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

__all__ = [
    "Bank",
    "Data",
    "Labels",
    "Log",
    "Quiet",
    "Stream",
    "Tasks",
    "Threads",
    "use_threads",
]

Stream = Annotated[str, typer.Argument(help="permuted, rotated, split or mixed.")]
Bank = Annotated[Path, typer.Option(help="Folder of the mask bank; made if missing.")]
Data = Annotated[
    str | None, typer.Option(help="Folder of IDX files, or an .npz; the digits if missing.")
]
Tasks = Annotated[int, typer.Option(help="Number of tasks.", min=1)]
Labels = Annotated[
    str,
    typer.Option(help="split: a task's own, from 0, or shared, the data's: an output a class."),
]
Threads = Annotated[
    int | None, typer.Option(help="Threads of PyTorch; small networks want 1.", min=1)
]
Log = Annotated[
    Path | None, typer.Option(help="One JSON line a task; BANK/train.jsonl if missing.")
]
Quiet = Annotated[bool, typer.Option(help="No progress bar.")]


def use_threads(threads: int | None) -> None:
    """Set PyTorch's threads, if there is a number."""
    if threads is not None:
        torch.set_num_threads(threads)
