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
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from supsup_runtime.arrays import Bytes, Scores
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_train.masks.learning import Learning, initial_scores, task_seed
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.train_task import check_data
from supsup_train.nns.checkpoint import Known, LearnerFiles, load_learning
from supsup_train.nns.scores import MaskScorer, Objective, joined_mask, pack_parts

MIN_MASKS = 5
"""Masks that inference compares, references included; the authors' number."""
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
    objective: Objective = "entropy"

    def __post_init__(self) -> None:
        if not 1 < self.threshold < float("inf"):
            raise InputError(f"threshold: must be above 1 and finite, got {self.threshold}")
        for name in ("period", "max_tasks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.objective not in get_args(Objective):
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
                other settings, there are no masked parameters, the recipe transfers, has a
                schedule or begins with zeros, or the objective needs superfluous outputs and there
                are none.
        """
        self._bank, self._module = bank, module
        self._recipe, self._settings = recipe or Recipe(), settings or NnsSettings()
        network = bank.network
        if not network.parameters:
            raise InputError(
                "network: scenario NNs tells tasks apart by their masks, and this one has no "
                "masked parameters; make the bank with some"
            )
        if self._recipe.transfer != "none":
            raise InputError(
                f"transfer: scenario NNs begins with fresh scores, got {self._recipe.transfer!r}; "
                "leave it out"
            )
        for name in ("schedule", "score_init"):
            wanted, default = getattr(self._recipe, name), getattr(Recipe(), name)
            if wanted != default:
                raise InputError(
                    f"{name}: scenario NNs, which draws masks and trains each for as long as its "
                    f"task lasts, needs {default!r}, got {wanted!r}; leave it out"
                )
        if self._settings.objective == "superfluous" and not network.superfluous_outputs:
            raise InputError(
                "objective: superfluous needs superfluous outputs, the network has none; take "
                "entropy"
            )
        self._told = {
            "recipe": asdict(self._recipe),
            "settings": asdict(self._settings),
            **(origin or {}),
        }
        self._files = LearnerFiles(bank, self._told)
        self._reference_masks: list[Bytes] = []
        self._scorer = MaskScorer(network, self._fresh(0).module.eval(), self._settings.objective)
        self.batches, self._index = self._files.batches, self._files.current
        self._known = self._files.known
        for index in range(self.num_tasks):
            task = bank.task(_name(index))
            self._scorer.put(index, joined_mask(task, network), task.state)
        self._current = self._resumed(self._index) if self._index >= 0 else None

    @property
    def num_tasks(self) -> int:
        """Masks allocated."""
        return len(self._known)

    def learn(self, x: Tensor, y: Tensor) -> Decision | None:
        """Learn from one batch.

        Args:
            x: ``float32 (batch, *input_shape)``, finite, at least one row. They are taken to be of
                one task: where tasks are mixed, the likeliest of them gets all rows.
            y: ``int64 (batch,)`` in ``[0, real_outputs)``.

        Returns:
            What it was taken for, on batches whose task is inferred; else None.

        Raises:
            InputError: If the batch is not as stated, which changes nothing; or if its loss is not
                finite: go on from the checkpoint before, with a new learner.
        """
        check_data(f"batch {self.batches}", x, y, self._bank.network)
        decision = None
        if self.batches % self._settings.period == 0:
            self.checkpoint()
            decision = self._decide(x)
        if self._current is not None:
            self._current.module.train()
            place = f"batch {self.batches}, task {_name(self._index)!r}"
            self._current.step(place, x, y)
            self._known[self._index]["visits"][-1][1] = self.batches + 1
        self.batches += 1
        return decision

    def checkpoint(self) -> None:
        """Write down all that is known: the mask in the bank, scores and position beside it."""
        if self._current is None:
            self._files.write(self.batches, self._known, -1, None)
            return
        known, current = self._known[self._index], self._current
        told = {"allocated": known["allocated"], "batches": known["visits"], "scenario": "NNs"}
        task = current.to_task(_name(self._index), {**told, **self._told})
        if task.name in self._bank:
            self._bank.replace(task)
        else:
            self._bank.add(task)
        self._score(current)
        self._files.write(self.batches, self._known, self._index, current)

    def scores(self, x: Tensor) -> Scores:
        """``-dO / d alphas`` of a batch at the uniform superposition of masks and references.

        Args:
            x: ``float32 (batch, *input_shape)``.

        Returns:
            ``float64 (max(masks, 5),)``: those of the masks, in the order of allocation, as they
            were at the last checkpoint, then those of the references.
        """
        return self._scorer.scores(x, self._references())

    def _decide(self, x: Tensor) -> Decision:
        if not self._known:
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
        self._known[best]["visits"].append([self.batches, self.batches])
        return self._decision("known", certainty)

    def _allocate(self, kind: Kind, certainty: float | None) -> Decision:
        self._index = self.num_tasks
        self._current = self._fresh(self._index)
        self._score(self._current)
        decision = self._decision(kind, certainty)
        visit = [self.batches, self.batches]
        self._known.append(Known(allocated=asdict(decision), visits=[visit]))
        return decision

    def _decision(self, kind: Kind, certainty: float | None) -> Decision:
        return Decision(
            batch=self.batches,
            kind=kind,
            task=_name(self._index) if self._index >= 0 else "",
            certainty=certainty,
            threshold=self._settings.threshold,
        )

    def _score(self, learning: Learning) -> None:
        """Tell the scorer of the present mask, by a copy: training goes on changing the tensors."""
        state = {name: value.detach().numpy().copy() for name, value in learning.state.items()}
        self._scorer.put(self._index, pack_parts(learning.masks().values()), state)

    def _references(self) -> list[Bytes]:
        """Packed random masks that fill up to `MIN_MASKS`, the same ones every time."""
        if not self._reference_masks:
            self._reference_masks = [
                pack_parts(self._fresh(-number).masks().values()) for number in range(1, MIN_MASKS)
            ]
        return self._reference_masks[: max(0, MIN_MASKS - self.num_tasks)]

    def _fresh(self, index: int) -> Learning:
        """A task's learning as it begins; negative indices are the references'."""
        name = _name(index) if index >= 0 else f"reference-{-index}"
        generator = torch.Generator().manual_seed(task_seed(self._recipe.seed, name))
        scores = initial_scores(self._bank.network, generator)
        return Learning(self._bank.network, self._module, self._recipe, scores)

    def _resumed(self, index: int) -> Learning:
        learning = self._fresh(index)
        load_learning(learning, self._files.read(index))
        return learning


def _name(index: int) -> str:
    return f"learned-{index:04d}"
