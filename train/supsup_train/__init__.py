"""Learn one binary mask per task over a fixed random network, and write them to a mask bank.

```python
import supsup_train as st

bank = st.create_bank("masks", module, input_shape=(784,), real_outputs=10)
task = st.train_task(bank, module, data)  # supsup_runtime.data.TaskData, or a stream's task
bank.add(task)
```

`open_bank` and `train_stream` are what `supsup-train` does: a bank made or opened, and all tasks of
a stream that it does not have.
"""

from supsup_train.masks.recipe import Recipe
from supsup_train.masks.rules import Rule
from supsup_train.masks.train_task import train_stream, train_task
from supsup_train.masks.transfer import Transfer
from supsup_train.networks.create_bank import create_bank, open_bank
from supsup_train.networks.models import Cnn, Mlp, make_model
from supsup_train.programs.programs import ProgramError

__all__ = [
    "Cnn",
    "Mlp",
    "ProgramError",
    "Recipe",
    "Rule",
    "Transfer",
    "create_bank",
    "make_model",
    "open_bank",
    "train_stream",
    "train_task",
]
