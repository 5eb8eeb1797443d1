"""Export mask banks as ONNX models, and check them."""

from supsup_runtime.errors import explained

try:
    from supsup_export.bank_model.compose import Request
    from supsup_export.exporter import export, export_recovery, export_task
except ModuleNotFoundError as error:
    raise explained(error, "supsup_export", "export,cpu") from None

__all__ = ["Request", "export", "export_recovery", "export_task"]
