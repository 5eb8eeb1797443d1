"""A module as two ONNX programs: forward, and gradient of the objectives."""
