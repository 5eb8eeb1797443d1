"""Log-odds of a task's own outputs against all others, in the graph."""

from __future__ import annotations

from supsup_export.graph import Graph
from supsup_runtime.model.metadata import ModelInfo


def log_odds(graph: Graph, logits: str, tasks: str, info: ModelInfo) -> str:
    """Return `log_odds` of logits: ``float32 (batch,)``; the network has superfluous outputs.

    Own outputs are those own to any of `tasks`: the first ``max(own)``. Without tasks there are as
    many as of the task that has fewest.
    """
    own = [task.real_outputs for task in info.tasks]
    if min(own) == max(own):
        parts = graph.split(logits, [own[0], info.network.outputs - own[0]], axis=1)
    else:
        chosen = graph.op("Gather", graph.ints(*own), tasks, axis=0)
        count = graph.op("ReduceMax", graph.join([graph.ints(min(own)), chosen]), keepdims=1)
        end, axis = graph.ints(info.network.outputs), graph.ints(1)
        parts = [
            graph.op("Slice", logits, graph.ints(0), count, axis),
            graph.op("Slice", logits, count, end, axis),
        ]
    sums = [graph.op("ReduceLogSumExp", part, graph.ints(1), keepdims=0) for part in parts]
    return graph.op("Sub", *sums, name="log_odds")
