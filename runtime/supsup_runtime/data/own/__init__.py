"""Tasks of one's own: pictures and arrays that a file or a folder names (docs/DATA.md)."""

from supsup_runtime.data.own.checking import Check, check
from supsup_runtime.data.own.tasks import OwnTasks, read_tasks

__all__ = ["Check", "OwnTasks", "check", "read_tasks"]
