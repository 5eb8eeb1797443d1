"""Compose one ONNX graph from a mask bank, and prove that it computes what the bank says."""
