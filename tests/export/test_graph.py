from __future__ import annotations

import numpy as np
import onnx.checker
import onnxruntime
from onnx import helper, numpy_helper

from supsup_export.graph import BOOL, FLOAT, Graph


def test_branches_of_a_program_may_return_constants() -> None:
    """Constants move to the outermost graph; a branch must return what its own nodes make."""
    branches = {}
    for name, value in (("then_branch", 1.0), ("else_branch", 2.0)):
        tensor = numpy_helper.from_array(np.array(value, np.float32), name)
        outputs = [helper.make_tensor_value_info(name, FLOAT, [])]
        branches[name] = helper.make_graph([], name, [], outputs, [tensor])
    program = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], **branches)],
        "program",
        [helper.make_tensor_value_info("c", BOOL, [])],
        [helper.make_tensor_value_info("y", FLOAT, [])],
    )
    graph = Graph()
    found = graph.inline(program, {"c": "c"})["y"]
    graph.op("Identity", found, name="logits")
    model = graph.model("model", [("c", BOOL, [])], [("logits", FLOAT, [])], {})
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    got = [session.run(None, {"c": np.array(value)})[0] for value in (True, False)]
    assert got == [1.0, 2.0]
