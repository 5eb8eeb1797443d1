"""Export mask banks as ONNX models, and check them."""

from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_recovery, export_task

__all__ = ["Request", "export", "export_recovery", "export_task"]
