"""What is not a task's, drawn beside each of its batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from supsup_runtime.arrays import Floats
from supsup_train.masks.augment import augmented
from supsup_train.masks.unlike import shuffled, turned

_NEGATIVES, _OWN = 42, 128
"""So many negatives for so many own images: a third."""
Change = Callable[[Tensor, torch.Generator], Tensor]
CHANGES: dict[str, Change] = {"turned": turned, "shuffled": shuffled}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNegatives:
    """Draws the negatives of one task.

    Attributes:
        changes: Names of changes of its own pictures, among `CHANGES`.
        pools: Images to choose from, each ``float32 (n, *input_shape)``.
        picture: ``(channels, height, width)``, for `changes`.
        augment: Random changes of images from `pools`; those of own images.
        tasks: Names of the other tasks that `pools` are of; recorded.
    """

    changes: tuple[str, ...]
    pools: tuple[Floats, ...]
    picture: tuple[int, ...]
    augment: str
    tasks: tuple[str, ...]

    def after(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return a batch with negatives after it, as many of each change and pool."""
        kinds: list[str | Floats] = [*self.changes, *self.pools]
        count, each = max(1, len(x) * _NEGATIVES // _OWN), len(kinds)
        first = int(torch.randint(each, (), generator=generator))  # gets what is left over
        sizes = [(count + (first + place) % each) // each for place in range(each)]
        drawn = [
            self._drawn(kind, size, x, generator)
            for kind, size in zip(kinds, sizes, strict=True)
            if size
        ]
        return torch.cat([x, *drawn])

    def _drawn(
        self, kind: str | Floats, size: int, x: Tensor, generator: torch.Generator
    ) -> Tensor:
        if isinstance(kind, str):
            own = x[torch.randint(len(x), (size,), generator=generator)]
            changed = CHANGES[kind](own.reshape(-1, *self.picture), generator)
            return changed.reshape(own.shape)
        rows = torch.randint(len(kind), (size,), generator=generator).numpy()
        return augmented(torch.from_numpy(kind[rows]), self.augment, generator)
