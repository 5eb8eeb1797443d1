"""Scenario NNs: learn tasks from one stream of batches without task labels.

One-shot inference over the learner's `K` masks gives ``nu = softmax(-dO / d alphas)``. If
``K * max nu < threshold``, the task is new and gets a mask (Wortsman et al. 2020, section 3.3).

With few masks ``nu`` says little. The authors' code always infers among five masks, untrained ones
included, and may train one that was never allocated. Here random *references* fill up to five: they
are part of the softmax but never selected; if a reference is likeliest, the task is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from supsup_runtime.arrays import Bytes, Scores, check_choice, check_number, checked_whole
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_train.masks.learning import Learning, initial_scores, task_seed
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.train_task import check_data
from supsup_train.nns.checkpoint import Known, LearnerFiles, load_learning
from supsup_train.nns.scores import MaskScorer, Objective, joined_mask, pack_parts

MIN_MASKS = 5
"""Minimum number of masks to compare, references included; the authors' number."""
Kind = Literal["first", "new", "same", "known", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NnsSettings:
    """Settings of task inference.

    Attributes:
        threshold: A batch is of a new task if ``K * max nu`` is below this; above 1 and finite. The
            default, 1 + 1/8, is the paper's.
        period: Batches between inferences, at least 1.
        max_tasks: Maximum number of masks, at least 1. Batches of further tasks are skipped.
        objective: ``entropy`` or ``superfluous``.

    Raises:
        InputError: If a setting is out of range.
    """

    threshold: float = 1.125
    period: int = 100
    max_tasks: int = 2500
    objective: Objective = "entropy"

    def __post_init__(self) -> None:
        fine = "above 1 and finite"
        check_number("threshold:", self.threshold, lambda t: 1 < t < float("inf"), fine)
        for name in ("period", "max_tasks"):
            value = checked_whole(f"{name}:", getattr(self, name), 1)
            object.__setattr__(self, name, value)
        check_choice("objective:", self.objective, get_args(Objective))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The result of inferring the task of a batch.

    Attributes:
        batch: Number of batches before it.
        kind: ``first`` or ``new``: a mask was allocated. ``same``: the task is unchanged.
            ``known``: an earlier task. ``full``: the task is new, but no mask is left; batches are
            skipped until the next inference.
        task: Name of the task to learn; empty if none.
        certainty: ``K * max nu``; 0 if a reference was likeliest, None for the first batch.
        threshold: The threshold of `certainty`.
    """

    batch: int
    kind: Kind
    task: str
    certainty: float | None
    threshold: float


class NnsLearner:
    """Learns from batches without task labels and adds a mask per inferred task to a bank.

    Attributes:
        batches: Batches seen; after resuming, those before the last checkpoint.
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
        """Start, or resume from the last checkpoint in the bank.

        Args:
            bank: Bank of the module, from `create_bank`; empty, or a learner's.
            module: The network; not changed.
            recipe: Training settings; `steps` and `batch_size` are only recorded. Defaults to
                ``Recipe()``.
            settings: Settings of task inference; defaults to ``NnsSettings()``.
            origin: Origin of the batches; recorded, and must be equal on resuming.

        Raises:
            InputError: If the checkpoint has another origin, recipe or settings, the recipe a
                transfer, schedule, warm-up, changed pictures, negatives or zero scores, or the
                network no masked parameters or none of the outputs that the objective needs.
            BankLockedError: If the bank cannot be locked.
        """
        self._bank, self._module = bank, module
        self._recipe, self._settings = recipe or Recipe(), settings or NnsSettings()
        network = bank.network
        if not network.parameters:
            raise InputError(
                "network: scenario NNs needs masked parameters, got none; make the bank with some"
            )
        if self._recipe.transfer != "none":
            raise InputError(
                f"transfer: scenario NNs starts with random scores, got {self._recipe.transfer!r}; "
                "leave it out"
            )
        for name in ("schedule", "score_init", "warmup", "augment"):
            wanted, default = getattr(self._recipe, name), getattr(Recipe(), name)
            if wanted != default:
                raise InputError(
                    f"{name}: scenario NNs, whose masks start random and whose tasks have no fixed "
                    f"length, needs {default!r}, got {wanted!r}; leave it out"
                )
        if self._recipe.negatives != "none":
            raise InputError(
                "negatives: scenario NNs has no batch that says which task it is of, got "
                f"{self._recipe.negatives!r:.80}; leave them out"
            )
        if self._settings.objective == "superfluous" and not network.superfluous_outputs:
            raise InputError(
                "objective: superfluous needs superfluous outputs, the network has none; use "
                "entropy"
            )
        self._told = {
            "recipe": self._recipe.to_dict(),
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
        bank.check_lock()  # before the first batch is learned

    @property
    def num_tasks(self) -> int:
        """Number of allocated masks."""
        return len(self._known)

    def learn(self, x: Tensor, y: Tensor) -> Decision | None:
        """Learn from one batch.

        Args:
            x: ``float32 (batch, *input_shape)``, finite, at least one row. All rows are learned as
                one task, the likeliest.
            y: ``int64 (batch,)`` in ``[0, real_outputs)``.

        Returns:
            The decision if the batch's task was inferred, else None.

        Raises:
            InputError: If the batch is invalid, which changes nothing, or its loss is not finite;
                then resume from the last checkpoint with a new learner.
        """
        network = self._bank.network
        check_data(f"batch {self.batches}", x, y, network, network.real_outputs)
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
        """Write the mask to the bank, and scores and position beside it."""
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
        """Return ``-dO / d alphas`` at the uniform superposition of masks and references.

        Args:
            x: ``float32 (batch, *input_shape)``.

        Returns:
            ``float64 (max(num_tasks, 5),)``: the masks of the last checkpoint, in order of
            allocation, then the references.
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
        state = learning.stored_state(f"task {_name(self._index)!r}")
        self._scorer.put(self._index, pack_parts(learning.masks().values()), state)

    def _references(self) -> list[Bytes]:
        if not self._reference_masks:
            self._reference_masks = [
                pack_parts(self._fresh(-number).masks().values()) for number in range(1, MIN_MASKS)
            ]
        return self._reference_masks[: max(0, MIN_MASKS - self.num_tasks)]

    def _fresh(self, index: int) -> Learning:
        """Make a new `Learning`; negative indices are references."""
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
