"""What a bank's tasks compute, in numpy: the reference of a check.

Independent of the exporter's layout. Weights are rounded to float32 in the graph's order; scores
are summed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from supsup_runtime.arrays import Array, Bytes, Scores
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import packed_bytes, unpack_mask

_CHUNK_WEIGHTS = 1 << 19
"""Unpacked at a time: 4 MB of float64 fit a cache."""


class Reference:
    """All tasks of a bank, each read once and kept at one bit per weight.

    Attributes:
        weights: Fixed weights by parameter, ``float32 shape``.
    """

    def __init__(self, bank: MaskBank) -> None:
        network, self._num_tasks = bank.network, len(bank)
        self._shapes = {p.name: p.shape for p in network.parameters}
        self.weights = dict(zip(self._shapes, network.weights(), strict=True))
        self._masks = {
            p.name: np.zeros((len(bank), packed_bytes(p.size)), np.uint8)
            for p in network.parameters
        }
        self._ones = {p.name: np.zeros(p.shape, np.uint32) for p in network.parameters}
        self._state = {s.name: np.zeros((len(bank), *s.shape), np.float32) for s in network.state}
        for index, task in enumerate(bank):
            for name, shape in self._shapes.items():
                self._masks[name][index] = task.masks[name]
                self._ones[name] += unpack_mask(task.masks[name], shape)
            for name, values in self._state.items():
                values[index] = task.state[name]

    def superposed(self, indices: Sequence[int], alphas: Sequence[float]) -> dict[str, Array]:
        """Return weights and state, ``float32`` by name, of given tasks or of all equally."""
        tensors = {}
        for name, weight in self.weights.items():
            mask = self._ones[name].astype(np.float32) * np.float32(1 / self._num_tasks)
            if indices:
                mask = np.zeros(weight.shape, np.float32)
                for i, alpha in zip(indices, alphas, strict=True):
                    mask += np.float32(alpha) * unpack_mask(self._masks[name][i], weight.shape)
            tensors[name] = mask * weight
        for name, values in self._state.items():
            chosen = values[list(indices)] if indices else values
            shares = np.array(alphas) if indices else np.full(len(values), 1 / len(values))
            tensors[name] = np.tensordot(shares, chosen, axes=1).astype(np.float32)
        return tensors

    def scores(self, gradients: Sequence[Mapping[str, Array]]) -> tuple[Scores, Scores]:
        """Score all tasks at several gradients.

        Args:
            gradients: Gradients of the objective by weights and state, by name.

        Returns:
            Scores ``float64 (gradients, tasks)``, and their spread ``float64 (gradients,)``.
        """
        scores = np.zeros((len(gradients), self._num_tasks))
        masked = np.zeros(len(gradients))
        for name, weight in self.weights.items():
            vectors = _flat(gradients, name) * weight.reshape(-1)
            masked += np.square(vectors).sum(axis=1)
            scores -= _products(vectors, self._masks[name])
        by_state = np.zeros_like(scores)
        for name, values in self._state.items():
            vectors, flat = _flat(gradients, name), values.reshape(len(values), -1)
            scores -= vectors @ flat.T
            by_state += np.square(vectors) @ np.square(flat, dtype=np.float64).T
        return scores, 0.5 * np.sqrt(masked if self.weights else by_state.max(axis=1))

    def peaks(self, gradient: Mapping[str, Array]) -> Array:
        """Return the largest magnitude of W * dO/dW per block of 256, across parameters."""
        flat = np.concatenate([(gradient[k] * w).reshape(-1) for k, w in self.weights.items()])
        blocks = np.abs(np.pad(flat, (0, -flat.size % 256))).reshape(-1, 256)
        return np.asarray(blocks.max(axis=1))


def _flat(gradients: Sequence[Mapping[str, Array]], name: str) -> Scores:
    """Return one tensor's gradients: ``float64 (gradients, size)``."""
    return np.stack([gradient[name].reshape(-1) for gradient in gradients]).astype(np.float64)


def _products(vectors: Scores, packed: Bytes) -> Scores:
    """Return ``vectors @ masks.T``: ``float64 (vectors, tasks)``."""
    size = vectors.shape[1]
    step = max(1, _CHUNK_WEIGHTS // (8 * len(packed)))
    total = np.zeros((len(vectors), len(packed)))
    for start in range(0, packed.shape[1], step):
        bits = np.unpackbits(packed[:, start : start + step], axis=1, bitorder="little")
        part = vectors[:, 8 * start : 8 * (start + step)]
        total += part @ bits[:, : size - 8 * start].T.astype(np.float64)
    return total
