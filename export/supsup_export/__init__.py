"""Compose one ONNX graph from a mask bank, and check that it computes what the bank says."""

from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_recovery, export_task

__all__ = ["Request", "export", "export_recovery", "export_task"]
