"""What the optimizer is told: parameters in groups with their rates, and how the rates rise and fall."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class FinetuneConfig:
    """When and how the encoder trains.

    Args:
        stages: Names of the CNN's modules that train, such as ["layer4"]; ["all"] for the whole CNN, [] for none.
        from_epoch: The first epoch, counted from 0, in which they train; before, only the decoder does.
        learning_rate: Their own peak learning rate.
        freeze_batchnorm: Leave BatchNorm's statistics, scale and shift as they are.
    """

    stages: list[str] = field(default_factory=list)
    from_epoch: int = 0
    learning_rate: float = 1e-5
    freeze_batchnorm: bool = True


def parameter_groups(
    trained: Mapping[str, tuple[float, Iterable[nn.Parameter]]], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for an optimizer: each part's matrices and kernels, and its biases and scales, which don't decay.

    Args:
        trained: The peak learning rate and the parameters of each part of the network.
        weight_decay: Of matrices and kernels.

    Returns:
        The groups that are not empty, named after their part; those without decay end in "/1d".
    """
    groups: list[dict[str, Any]] = []
    for name, (rate, parameters) in trained.items():
        everything = list(parameters)
        for suffix, flat, decay in (("", False, weight_decay), ("/1d", True, 0.0)):
            params = [parameter for parameter in everything if (parameter.ndim < 2) is flat]
            if params:
                groups.append({"name": name + suffix, "lr": rate, "params": params, "weight_decay": decay})
    return groups


def cosine_rate(step: int, steps: float, warmup_steps: int, final_share: float) -> float:
    """Share of the peak learning rate at a step: a linear rise, times a half cosine from 1 to `final_share`."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return warm * (final_share + (1 - final_share) * fall)
