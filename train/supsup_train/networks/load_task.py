"""A bank's task back in its module."""

from __future__ import annotations

import torch
from torch import nn

from supsup_runtime.arrays import check_kind
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_train.networks.create_bank import check_module, copy_for, tensors_of


def load_task(bank: MaskBank, module: nn.Module, name: int | str) -> nn.Module:
    """Return a copy of a module with a task's weights, equal to the exported model.

    Args:
        bank: Bank of the module, from `create_bank`.
        module: The network; not changed. Its seeded weights and state are not used, its other
            tensors must be those that the bank was made with; over a base, all but a new head.
        name: Name or index of the task.

    Returns:
        The module in eval mode: masked weights, biases of zero, the task's state. Its inputs are
        ``float32 (batch, *input_shape)``, prepared by `Network.preprocessing` if there is any.

    Raises:
        InputError: If the module is not the bank's.
        BankError: If the task does not exist or its file is damaged.
    """
    check_kind("bank", bank, MaskBank, "a MaskBank, from create_bank")
    network = bank.network
    loaded = copy_for(network, module)
    check_module(loaded, network)
    task, tensors = bank.task(name), tensors_of(loaded)
    values = {
        parameter.name: weight * unpack_mask(task.masks[parameter.name], parameter.shape)
        for parameter, weight in zip(network.parameters, network.weights(), strict=True)
    }
    with torch.no_grad():
        for key, value in {**values, **task.state}.items():
            tensors[key].copy_(torch.from_numpy(value))
    return loaded.eval()
