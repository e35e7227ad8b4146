"""Depthwise convolutions that train in float32 on a CPU.

Automatic mixed precision would use bfloat16, in which their backward pass takes three times as long
on a CPU.
"""

import torch
from torch import Tensor, nn


def train_depthwise_in_float32(network: nn.Module) -> None:
    """Make all depthwise convolutions of a network train in float32 on a CPU.

    Args:
        network: Changed in place; its parameters and its float32 results are unchanged.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    depthwise = [module for module in convolutions if module.groups == module.in_channels > 1]
    # torch's class, or timm's subclass of it
    kinds = {
        kind: type(f"Depthwise{kind.__name__}", (_TrainsInFloat32, kind), {})
        for kind in set(map(type, depthwise))
    }
    for module in depthwise:
        module.__class__ = kinds[type(module)]


class _TrainsInFloat32(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not self.weight.requires_grad:
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())
