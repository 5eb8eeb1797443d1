"""Learn one binary mask per task over a fixed random network and write it to a mask bank.

```python
import supsup_train as st

bank = st.create_bank("masks", module, input_shape=(784,), real_outputs=10)
task = st.train_task(bank, module, data)  # a supsup_runtime.data.TaskData
bank.add(task)
```

`supsup-train` calls `open_bank` and `train_stream`.
"""

from supsup_runtime.errors import explained

try:
    from supsup_train.masks.device import Device
    from supsup_train.masks.gathering import Negatives
    from supsup_train.masks.recipe import Recipe
    from supsup_train.masks.rules import Rule
    from supsup_train.masks.train_stream import train_stream
    from supsup_train.masks.train_task import train_task
    from supsup_train.masks.transfer import Transfer
    from supsup_train.networks.base import Base
    from supsup_train.networks.create_bank import create_bank, open_bank
    from supsup_train.networks.load_task import load_task
    from supsup_train.networks.models import Cnn, Mlp, make_model
    from supsup_train.programs.programs import ProgramError
    from supsup_train.workers.work import Workers
except ModuleNotFoundError as error:
    raise explained(error, "supsup_train", "train") from None

__all__ = [
    "Base",
    "Cnn",
    "Device",
    "Mlp",
    "Negatives",
    "ProgramError",
    "Recipe",
    "Rule",
    "Transfer",
    "Workers",
    "create_bank",
    "load_task",
    "make_model",
    "open_bank",
    "train_stream",
    "train_task",
]
