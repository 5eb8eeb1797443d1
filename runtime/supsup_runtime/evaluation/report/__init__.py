"""An evaluation as one HTML file, without scripts and without anything from outside."""

from supsup_runtime.evaluation.report.page import claim_report, write_report

__all__ = ["claim_report", "write_report"]
