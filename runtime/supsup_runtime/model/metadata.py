"""Metadata of an exported model, contract 2 (docs/CONTRACT.md)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from supsup_runtime.arrays import about, few, shown
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.fields import canonical_json
from supsup_runtime.bank.index import OBJECTIVES
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import Origin, check_labels, is_origin
from supsup_runtime.errors import BankError, ModelError
from supsup_runtime.hopfield.metadata import HopfieldInfo
from supsup_runtime.model.host import advice

CONTRACT = 2
_CONTRACTS = ("1", "2")
"""Contracts that are read; in the first, all real outputs are labels of every task."""
PREFIX = "org.supsup."
Target = Literal["cpu", "cuda", "portable"]
"""Set of operators in the graph."""
Scoring = Literal["exact", "rounded", "screened"]
"""Which scores are exact: all, or only those of tasks that can still win."""
Mode = Literal["full", "known", "infer", "recover", "recover-stream"]
"""Purpose of a model: both, known tasks only, inference only, or recovering masks, one step or one
stream per call."""
Preprocess = Literal["runtime", "baked"]
"""Where pictures become inputs: in the application, or in the graph."""
RECOVERING = ("recover", "recover-stream")
"""Modes of models with a Hopfield store instead of masks."""
_OPTIONAL = ("calibration", "hopfield", "preprocess", "revision")
_KEYS = ("contract", "digest", "forward", "mode", "network", "objective", "target", "tasks")
BAKED: Preprocess = "baked"
"""The value of `preprocess`, which is missing otherwise."""
_SHA256 = re.compile("[0-9a-f]{64}")
_BIT_ORDER = "least-significant-first"
MAX_JSON = 1 << 26
"""Characters of a JSON text; what it holds takes up to 25 times as many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """One task of a model.

    Attributes:
        index: Index in the graph's input `tasks`.
        name: Name in the bank.
        real_outputs: Leading outputs that are labels of this task.
        labels: Class names by output index; empty if the bank has none.
        origin: Where its data come from; empty if the bank does not know.
    """

    index: int
    name: str
    real_outputs: int
    labels: tuple[str, ...] = ()
    origin: Origin = field(default_factory=dict, hash=False)

    def __repr__(self) -> str:
        named = f"labels {few(self.labels)}" if self.labels else "no labels"
        return about(
            self, f"{self.index}: {shown(self.name)}", f"{self.real_outputs} own outputs", named
        )


Named: TypeAlias = tuple[str, tuple[str, ...], Origin]
"""Name, labels and origin of a task."""


def described(network: Network, named: Iterable[Named]) -> tuple[TaskInfo, ...]:
    """Return the tasks with these names, labels and origins, in index order."""
    return tuple(
        TaskInfo(
            index=index,
            name=name,
            real_outputs=network.real_outputs_of(labels),
            labels=labels,
            origin=origin,
        )
        for index, (name, labels, origin) in enumerate(named)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Metadata of an exported model.

    Attributes:
        network: The network.
        digest: `Network.digest`.
        tasks: The tasks, in index order.
        objective: ``entropy`` or ``superfluous``; empty if the model cannot infer.
        mode: Which inputs and outputs the graph has.
        target: Operators of the graph: ``cpu``, ``cuda`` or ``portable``.
        scoring: ``exact``; or ``rounded`` (off by a few thousandths of the largest score) or
            ``screened``, which estimate the scores of tasks that cannot win.
        forward: The forward program, an ONNX model with the weights as inputs.
        calibration: Threshold for known tasks; None if not measured.
        hopfield: Metadata of the store in modes that recover masks, else None.
        baked: Whether the graph has the network's preprocessing and takes ``uint8`` pictures.
        revision: `MaskBank.revision` of the exported bank; None in modes that recover masks, and in
            contract 1.
    """

    network: Network
    digest: str
    tasks: tuple[TaskInfo, ...]
    objective: str
    mode: Mode
    target: str
    forward: bytes = field(repr=False)
    scoring: Scoring = "exact"
    calibration: Calibration | None = None
    hopfield: HopfieldInfo | None = None
    baked: bool = False
    revision: str | None = None

    def __repr__(self) -> str:
        names = few([task.name for task in self.tasks[:4]])
        kind = self.mode, self.target, self.objective
        return about(self, f"{len(self.tasks)} tasks: {names}", *kind, repr(self.network))

    def __post_init__(self) -> None:
        if self.calibration is not None:
            self.calibration.check_tasks(len(self.tasks))
        log_odds = self.calibration is not None and self.calibration.score == "log-odds"
        if log_odds and not self.network.superfluous_outputs:
            raise BankError(
                "calibration: score log-odds needs superfluous outputs, the network has none"
            )
        if self.baked and (self.network.preprocessing is None or self.hopfield is not None):
            raise BankError("preprocess: baked needs a network with preprocessing and no hopfield")
        if self.objective == "superfluous" and not self.network.superfluous_outputs:
            raise BankError("objective superfluous needs superfluous outputs, the network has none")

    def to_metadata(self) -> dict[str, str]:
        """Return the ``metadata_props``, sorted; lists as JSON, bytes as base64."""
        tasks = [_to_dict(task) for task in self.tasks]
        values = {
            "bit_order": _BIT_ORDER,
            "contract": str(CONTRACT),
            "digest": self.digest,
            "forward": base64.b64encode(self.forward).decode(),
            "mode": self.mode,
            "network": canonical_json(self.network.to_dict()),
            "objective": self.objective,
            "scoring": self.scoring,
            "target": self.target,
            "tasks": canonical_json(tasks),
        }
        if self.calibration is not None:
            values["calibration"] = canonical_json(self.calibration.to_dict())
        if self.hopfield is not None:
            values["hopfield"] = self.hopfield.to_json()
        if self.baked:
            values["preprocess"] = BAKED
        if self.revision is not None:
            values["revision"] = self.revision
        return {PREFIX + key: values[key] for key in sorted(values)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, place: str) -> ModelInfo:
        """Invert `to_metadata`.

        Args:
            metadata: All metadata of a model.
            place: Name of the model in messages.

        Raises:
            ModelError: If the model is not supsup's, of another contract, or malformed.
        """
        version = metadata.get(PREFIX + "contract")
        if version is None and metadata.get(PREFIX + "kind") == "task":
            slow = advice("--bits 2", "--bits 32") if metadata.get(PREFIX + "bits") == "2" else ""
            raise ModelError(
                f"{place}: a model of one task ({metadata.get(PREFIX + 'task')}): run it with "
                "ONNX Runtime directly; the runtime loads models of whole banks"
                + (slow and f"; {slow}")
            )
        if version is None:
            raise ModelError(
                f"{place}: not a supsup model: metadata {PREFIX}contract is missing; "
                "make one with supsup-export"
            )
        if version not in _CONTRACTS:
            raise ModelError(
                f"{place}: contract must be {' or '.join(_CONTRACTS)}, got {version!r}; "
                "export the bank again, or use the supsup that made the model"
            )
        missing = [PREFIX + key for key in _KEYS if PREFIX + key not in metadata]
        if missing:
            raise ModelError(f"{place}: metadata must have {missing[0]}, got none")
        values = {key: metadata[PREFIX + key] for key in _KEYS}
        values["scoring"] = metadata.get(PREFIX + "scoring", "exact")
        try:
            return _parse(values, {key: metadata.get(PREFIX + key) for key in _OPTIONAL})
        except (OverflowError, RecursionError, ValueError) as error:
            raise ModelError(f"{place}: metadata are malformed: {error}") from error


def _require_store(mode: str, hopfield: str | None) -> None:
    if mode in RECOVERING and hopfield is None:
        raise BankError(f"hopfield is required in mode {mode}, got none")
    if mode not in RECOVERING and hopfield is not None:
        raise BankError(f"hopfield is allowed only in modes {list(RECOVERING)}, got mode {mode!r}")


def _objectives(mode: str) -> tuple[str, ...]:
    if mode == "known":
        return ("",)
    return ("entropy",) if mode in RECOVERING else OBJECTIVES


def _parse(values: Mapping[str, str], more: Mapping[str, str | None]) -> ModelInfo:
    mode, objective, scoring = values["mode"], values["objective"], values["scoring"]
    calibration, hopfield, preprocess, revision = (more[key] for key in _OPTIONAL)
    revision = None if values["contract"] == "1" else revision
    _require("mode", mode, get_args(Mode))
    _require("objective", objective, _objectives(mode))
    _require_store(mode, hopfield)
    targets = ("portable",) if mode in RECOVERING else get_args(Target)
    _require("target", values["target"], targets)
    _require("scoring", scoring, get_args(Scoring))
    if preprocess is not None:
        _require("preprocess", preprocess, (BAKED,))
    if revision is not None and not _SHA256.fullmatch(revision):
        raise BankError(f"revision must be 64 hexadecimal digits, got {revision!r:.80}")
    forward = base64.b64decode(values["forward"], validate=True)
    network = Network.from_dict(_json(values["network"]))
    _require("digest", values["digest"], (network.digest(forward),))
    named = _named(_json(values["tasks"]))
    for name, labels, _ in named:
        check_labels(labels, network, f"task {name!r:.80}")
    tasks = described(network, named)
    if values["contract"] == "1":
        if network.newer:
            raise BankError(f"network: {network.newer[0]} needs contract 2, got contract 1")
        tasks = tuple(replace(task, real_outputs=network.real_outputs) for task in tasks)
    return ModelInfo(
        network=network,
        digest=values["digest"],
        tasks=tasks,
        objective=objective,
        mode=mode,  # type: ignore[arg-type]  # one of Mode's, checked above
        target=values["target"],
        scoring=scoring,  # type: ignore[arg-type]  # as above
        forward=forward,
        calibration=None if calibration is None else Calibration.from_dict(_json(calibration)),
        hopfield=None
        if hopfield is None
        else HopfieldInfo.from_json(hopfield, network, num_tasks=len(tasks)),
        baked=preprocess is not None,
        revision=revision,
    )


def _json(text: str) -> object:
    if len(text) > MAX_JSON:
        raise BankError(f"JSON must have at most {MAX_JSON} characters, got {len(text)}")
    return json.loads(text)


def _require(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        expected = repr(allowed[0]) if len(allowed) == 1 else f"one of {list(allowed)}"
        raise BankError(f"{key} must be {expected}, got {value!r:.80}")


def _to_dict(task: TaskInfo) -> dict[str, Any]:
    value = {"labels": list(task.labels), "name": task.name}
    return {**value, "origin": dict(task.origin)} if task.origin else value


def _named(items: object) -> list[Named]:
    if not isinstance(items, list) or not items:
        raise BankError(f"tasks must be a list of at least one, got {items!r:.60}")
    tasks = [_task(item) for item in items]
    seen: set[str] = set()
    for name, *_ in tasks:
        if name in seen:
            raise BankError(f"task names must be unique, got {name!r} twice")
        seen.add(name)
    return tasks


def _task(item: object) -> Named:
    if not isinstance(item, dict) or not {"labels", "name"} <= set(item):
        raise BankError(f"a task must be an object with labels and name, got {item!r:.60}")
    name, labels = item["name"], item["labels"]
    if not isinstance(labels, list) or not all(isinstance(text, str) for text in (name, *labels)):
        raise BankError(f"a task must have a name and a list of labels, strings, got {item!r:.60}")
    origin = item.get("origin", {})
    if not is_origin(origin):
        raise BankError(f"origin of {name!r:.80} must have data and stream, got {origin!r:.80}")
    return name, tuple(labels), origin
