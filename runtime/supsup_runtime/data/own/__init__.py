"""Tasks of one's own: pictures and arrays that a file or a folder names (docs/DATA.md)."""

from supsup_runtime.data.own.checking import Check, check
from supsup_runtime.data.own.classes import read_classes
from supsup_runtime.data.own.tasks import OwnTasks, Tasks, read_tasks

__all__ = ["Check", "OwnTasks", "Tasks", "check", "read_classes", "read_tasks"]
