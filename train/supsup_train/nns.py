"""Scenario NNs: tasks that nobody tells apart, learned from one stream of batches.

Every so many batches the learner infers the task of one, by the paper's one-shot algorithm over the
masks it has. Where it is uncertain, the task is new, and a mask is allocated (Wortsman et al. 2020,
section 3.3): with `K` masks and ``nu = softmax(-dO / d alphas)``, where ``K * max nu < threshold``,
1 + 1 / 8 in the paper.

With one mask, ``nu`` is 1 whatever the batch, and with few of them it says little. The authors'
code therefore always infers among five masks, untrained ones included, and may then train one that
was never allocated. Here up to five are filled with *references*, random masks that only serve to
compare: they are part of the softmax, and are never chosen. Where one of them is likeliest, no mask
fits, and the task is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call

from supsup_runtime.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.network import Network
from supsup_runtime.taskfile import make_task
from supsup_train.learning import Learning, begin, initial_scores, task_seed
from supsup_train.nns_files import LearnerFiles, load_learning
from supsup_train.recipe import Recipe

__all__ = ["Decision", "NnsLearner", "NnsSettings"]

MIN_MASKS = 5
"""Masks that inference compares, references included; the authors' number."""
Packed = npt.NDArray[np.uint8]
Kind = Literal["first", "new", "same", "known", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NnsSettings:
    """How the learner tells tasks apart.

    Attributes:
        threshold: Of ``K * max nu``, below which a batch is of a new task; above 1.
        period: Batches from one inference to the next, at least 1.
        max_tasks: Masks it may allocate, at least 1. When all are taken, batches of further tasks
            are passed over: nothing is overwritten.
        objective: ``entropy`` or ``superfluous``.
    """

    threshold: float = 1.125
    period: int = 100
    max_tasks: int = 2500
    objective: Literal["entropy", "superfluous"] = "entropy"

    def __post_init__(self) -> None:
        if not 1 < self.threshold < float("inf"):
            raise InputError(f"threshold: must be above 1 and finite, got {self.threshold}")
        for name in ("period", "max_tasks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.objective not in {"entropy", "superfluous"}:
            raise InputError(f"objective: must be entropy or superfluous, got {self.objective!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the learner took a batch for, and why.

    Attributes:
        batch: Number of batches seen before it.
        kind: ``first``: there was no mask. ``new``: it was uncertain, and allocated one. ``same``:
            the task goes on. ``known``: an earlier task is back. ``full``: it was uncertain, and
            there is no mask left; batches are passed over until the next inference.
        task: Name of the task that learns from now on; empty where none does.
        certainty: ``K * max nu`` over the masks, zero where a reference was likeliest; None for the
            first batch.
        threshold: What it was compared with.
    """

    batch: int
    kind: Kind
    task: str
    certainty: float | None
    threshold: float


class NnsLearner:
    """Learns from batches that do not say their task; a bank gets a mask for each task it finds.

    Attributes:
        batches: Batches seen. After opening a bank that a learner stopped in, the position to go
            on from: a multiple of the period, where it last wrote down all it knew.
        num_tasks: Masks allocated.
    """

    def __init__(
        self,
        bank: MaskBank,
        module: nn.Module,
        *,
        recipe: Recipe | None = None,
        settings: NnsSettings | None = None,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        """Start, or go on where a learner stopped in this bank.

        Args:
            bank: Made with `create_bank` of the same module; empty, or a learner's.
            module: The network; not changed.
            recipe: Rule and optimiser; `steps` and `batch_size` are the caller's.
            settings: How tasks are told apart.
            origin: What the batches come from, written down, and to be the same when going on.

        Raises:
            InputError: If the bank has tasks of another origin, the learner that stopped in it had
                other settings, or the objective needs superfluous outputs and there are none.
        """
        self._bank, self._module = bank, module
        self._recipe, self._settings = recipe or Recipe(), settings or NnsSettings()
        network = bank.network
        if self._recipe.transfer != "none":
            raise InputError(
                f"transfer: scenario NNs begins with fresh scores, got {self._recipe.transfer!r}; "
                "leave it out"
            )
        if self._settings.objective == "superfluous" and not network.superfluous_outputs:
            raise InputError(
                "objective: superfluous needs superfluous outputs, the network has none; take "
                "entropy"
            )
        told = {"recipe": asdict(self._recipe), "settings": asdict(self._settings)}
        self._files = LearnerFiles(bank, {**told, **(origin or {})})
        self._weights = [torch.from_numpy(w) for w in network.weights()]
        self._evaluated = self._fresh(0).module.eval()
        self._reference_masks: list[Packed] = []
        self._current: Learning | None = None
        self._index = -1
        self.batches, visits = self._files.position()
        self._visits: list[list[list[int]]] = visits
        self._packed = [_packed_mask(bank, index) for index in range(len(visits))]
        self._states = [bank.task(index).state for index in range(len(visits))]
        if visits:
            self._index = self._files.current
            if self._index >= 0:
                self._current = self._resumed(self._index)

    @property
    def num_tasks(self) -> int:
        """Masks allocated."""
        return len(self._visits)

    def learn(self, x: Tensor, y: Tensor) -> Decision | None:
        """Learn from one batch.

        Args:
            x: ``float32 (batch, *input_shape)``, all of one task.
            y: ``int64 (batch,)`` in ``[0, real_outputs)``.

        Returns:
            What it was taken for, on batches whose task is inferred; else None.

        Raises:
            InputError: If a value of the batch, or the loss, is not finite.
        """
        if not torch.isfinite(x).all():
            raise InputError(f"batch {self.batches}: x must be finite, got NaN or infinity")
        decision = None
        if self.batches % self._settings.period == 0:
            self.checkpoint()
            decision = self._decide(x)
        self.batches += 1
        if self._current is not None:
            self._current.module.train()
            loss = self._current.step(x, y)
            if not torch.isfinite(loss):
                raise InputError(
                    f"batch {self.batches - 1}: the loss is {loss.item()}, it must be finite; "
                    "lower the learning rate"
                )
            self._visits[self._index][-1][1] = self.batches
        return decision

    def checkpoint(self) -> None:
        """Write down all that is known: the mask in the bank, scores and position beside it."""
        if self._current is None:
            if self.num_tasks:
                self._files.write(self.batches, self._visits, -1, None)
            return
        masks = {name: mask.bool().numpy() for name, mask in self._current.masks().items()}
        task = make_task(
            _name(self._index),
            masks,
            state={n: v.detach().numpy() for n, v in self._current.state.items()},
            training={
                "batches": self._visits[self._index],
                "recipe": asdict(self._recipe),
                "scenario": "NNs",
            },
        )
        if task.name in self._bank:
            self._bank.replace(task)
        else:
            self._bank.add(task)
        self._packed[self._index] = _packed_mask(self._bank, self._index)
        self._states[self._index] = dict(task.state)
        self._files.write(self.batches, self._visits, self._index, self._current)

    def _decide(self, x: Tensor) -> Decision:
        if not self._visits:
            return self._allocate("first", None)
        nu = torch.softmax(torch.from_numpy(self.scores(x)), 0).numpy()
        best = int(nu.argmax())
        certainty = float(len(nu) * nu[best]) if best < self.num_tasks else 0.0
        if certainty < self._settings.threshold:
            if self.num_tasks >= self._settings.max_tasks:
                self._current, self._index = None, -1
                return self._decision("full", certainty)
            return self._allocate("new", certainty)
        if best == self._index:
            return self._decision("same", certainty)
        self._current, self._index = self._resumed(best), best
        self._visits[best].append([self.batches, self.batches])
        return self._decision("known", certainty)

    def _allocate(self, kind: Kind, certainty: float | None) -> Decision:
        self._index = self.num_tasks
        self._current = self._fresh(self._index)
        self._visits.append([[self.batches, self.batches]])
        self._packed.append(_pack(self._current))
        self._states.append({n: v.detach().numpy() for n, v in self._current.state.items()})
        return self._decision(kind, certainty)

    def _decision(self, kind: Kind, certainty: float | None) -> Decision:
        return Decision(
            batch=self.batches,
            kind=kind,
            task=_name(self._index) if self._index >= 0 else "",
            certainty=certainty,
            threshold=self._settings.threshold,
        )

    def scores(self, x: Tensor) -> npt.NDArray[np.float64]:
        """``-dO / d alphas`` of a batch at the uniform superposition of masks and references.

        Args:
            x: ``float32 (batch, *input_shape)``.

        Returns:
            ``float64 (max(masks, 5),)``: those of the masks, in the order of allocation, as they
            were at the last checkpoint, then those of the references.
        """
        network = self._bank.network
        masks = [*self._packed, *self._references()]
        states = [*self._states, *[self._states[0]] * (len(masks) - len(self._states))]
        counts = np.zeros(network.num_masked, np.float32)
        for mask in masks:
            counts += _bits(mask, network)
        share = torch.from_numpy(counts / np.float32(len(masks)))
        parts = _cut(share, network)
        feeds = {
            p.name: (w * part).requires_grad_()
            for p, w, part in zip(network.parameters, self._weights, parts, strict=True)
        }
        for tensor in network.state:
            mean = sum(state[tensor.name].astype(np.float64) for state in states) / len(states)
            feeds[tensor.name] = torch.from_numpy(np.float32(mean)).requires_grad_()
        gradients = self._gradients(x, feeds)
        flat = [
            gradients[p.name] * w for p, w in zip(network.parameters, self._weights, strict=True)
        ]
        vector = torch.cat([value.reshape(-1) for value in flat]).double().numpy()
        scores = np.array([-(vector @ _bits(mask, network).astype(np.float64)) for mask in masks])
        for tensor in network.state:
            added = gradients[tensor.name].double().numpy()
            scores -= [(state[tensor.name] * added).sum() for state in states]
        return scores

    def _gradients(self, x: Tensor, feeds: dict[str, Tensor]) -> dict[str, Tensor]:
        """Derivatives of the objective, batch mean, by name; zero where it does not depend."""
        logits: Tensor = functional_call(self._evaluated, feeds, (x,))
        if self._settings.objective == "entropy":
            value = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        else:
            real = torch.arange(logits.shape[1]) < self._bank.network.real_outputs
            value = torch.where(real, logits.detach(), logits).logsumexp(1).mean()
        found = torch.autograd.grad(value, list(feeds.values()), allow_unused=True)
        return {
            name: torch.zeros_like(tensor) if gradient is None else gradient
            for (name, tensor), gradient in zip(feeds.items(), found, strict=True)
        }

    def _references(self) -> list[Packed]:
        """Packed random masks that fill up to `MIN_MASKS`, the same ones every time."""
        if not self._reference_masks:
            self._reference_masks = [_pack(self._fresh(-number)) for number in range(1, MIN_MASKS)]
        return self._reference_masks[: max(0, MIN_MASKS - self.num_tasks)]

    def _fresh(self, index: int) -> Learning:
        """A task's learning as it begins; negative indices are the references'."""
        name = _name(index) if index >= 0 else f"reference-{-index}"
        generator = torch.Generator().manual_seed(task_seed(self._recipe.seed, name))
        scores = initial_scores(self._bank.network, generator)
        return begin(self._bank.network, self._module, self._recipe, scores)

    def _resumed(self, index: int) -> Learning:
        learning = self._fresh(index)
        load_learning(learning, self._files.read(index))
        return learning


def _name(index: int) -> str:
    return f"learned-{index:04d}"


def _pack(learning: Learning) -> Packed:
    bits = torch.cat([mask.reshape(-1) for mask in learning.masks().values()]).detach().bool()
    return np.packbits(bits.numpy(), bitorder="little")


def _packed_mask(bank: MaskBank, index: int) -> Packed:
    """All masks of a task of the bank, joined and packed."""
    masks = bank.task(index).masks
    bits = [
        np.unpackbits(masks[p.name], count=p.size, bitorder="little")
        for p in bank.network.parameters
    ]
    return np.packbits(np.concatenate(bits), bitorder="little")


def _bits(packed: Packed, network: Network) -> npt.NDArray[np.bool_]:
    return np.unpackbits(packed, count=network.num_masked, bitorder="little").view(np.bool_)


def _cut(flat: Tensor, network: Network) -> list[Tensor]:
    parts = torch.split(flat, [p.size for p in network.parameters])
    return [part.reshape(p.shape) for part, p in zip(parts, network.parameters, strict=True)]
