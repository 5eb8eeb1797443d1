"""Learn one binary mask a task over a fixed random network, and write them to a mask bank.

```python
import supsup_train as st

bank = st.create_bank("masks", module, input_shape=(784,), real_outputs=10)
task = st.train_task(bank, module, x, y, name="clockwise")
bank.add(task)
```
"""

from supsup_train.masks.recipe import Recipe
from supsup_train.masks.rules import Rule
from supsup_train.masks.train_task import train_task
from supsup_train.masks.transfer import Transfer
from supsup_train.networks.create_bank import create_bank
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
    "train_task",
]
