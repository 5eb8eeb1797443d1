"""Mask banks, and exported models on ONNX Runtime.

```python
import supsup_runtime as supsup

model = supsup.load("out.onnx")
model.predict(x, task="rotated-090")  # known task
model.predict(x)  # inferred task
```
"""

import logging

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.network import MaskedParameter, Network, StateTensor
from supsup_runtime.bank.task import TaskMasks, make_task
from supsup_runtime.errors import (
    BankError,
    BankLockedError,
    CapacityWarning,
    DataError,
    FileError,
    InputError,
    ModelError,
    OutputExistsError,
    ParityError,
    ProviderUnavailableError,
    SupSupError,
)
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.model.inference import Inference, TaskInference
from supsup_runtime.model.metadata import ModelInfo, TaskInfo
from supsup_runtime.model.model import Model, load
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.model.tracker import Posterior, Tracker
from supsup_runtime.recovery.descent import Recovery
from supsup_runtime.recovery.model import HopfieldModel, load_hopfield
from supsup_runtime.recovery.result import Recovered

__all__ = [
    "BankError",
    "BankLockedError",
    "Calibration",
    "CapacityWarning",
    "DataError",
    "FileError",
    "HopfieldModel",
    "HopfieldStore",
    "Inference",
    "InputError",
    "MaskBank",
    "MaskedParameter",
    "Model",
    "ModelError",
    "ModelInfo",
    "Network",
    "OutputExistsError",
    "ParityError",
    "Posterior",
    "Prediction",
    "ProviderUnavailableError",
    "Recovered",
    "Recovery",
    "StateTensor",
    "SupSupError",
    "TaskInference",
    "TaskInfo",
    "TaskMasks",
    "Tracker",
    "load",
    "load_hopfield",
    "make_task",
]

logging.getLogger("supsup").addHandler(logging.NullHandler())  # an application adds its own


def __getattr__(name: str) -> str:
    """Look the version up when it is read, because that takes milliseconds."""
    if name == "__version__":
        from supsup_runtime.console import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
