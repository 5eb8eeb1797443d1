"""Export of a module as ONNX programs."""
