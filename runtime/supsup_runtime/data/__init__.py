"""Data sets, and streams of tasks made from them (docs/DATA.md)."""

from supsup_runtime.data.dataset import Dataset
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream, TaskData, make_stream

__all__ = ["Dataset", "Stream", "TaskData", "load_dataset", "make_stream"]
