"""The optimizer: parameter groups, their learning rates, and the learning rate schedule."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from captioner.errors import ConfigError
from captioner.model.captioning import CaptioningModel


@dataclass(frozen=True)
class FinetuneConfig:
    """When and how the encoder trains.

    Args:
        stages: Names of the CNN's modules that train, such as ["layer4"]; ["all"] for the whole
            CNN, [] for none.
        from_epoch: The first epoch, counted from 0, in which they train; before, only the decoder
            does.
        learning_rate: Their own peak learning rate.
        freeze_batchnorm: Keep BatchNorm's statistics, scale and shift fixed.
        keep_classifier: Weight of a loss that preserves the encoder's classifier, which the tags
            come from: the divergence from its original distribution, KL(original || current), mean
            over images (learning without forgetting, Li and Hoiem 2016). 0 turns it off. It costs
            one more forward pass, of the trained stages only if the CNN is a chain of stages.
        classifier_of: Pretrained weights, as for `model.weights`, whose classifier is preserved:
            over a chain of runs, what each of them forgets adds up. Null preserves that of the
            encoder that the run begins with.
    """

    stages: list[str] = field(default_factory=list)
    from_epoch: int = 0
    learning_rate: float = 1e-5
    freeze_batchnorm: bool = True
    keep_classifier: float = 1.0
    classifier_of: str | None = None

    def __post_init__(self) -> None:
        if self.from_epoch < 0:
            raise ConfigError(
                f"model.finetune.from_epoch is {self.from_epoch}; expected 0 or more."
            )
        if not 0 <= self.keep_classifier < math.inf:
            raise ConfigError(
                f"model.finetune.keep_classifier is {self.keep_classifier}; expected a weight of 0"
                " or more."
            )
        if not 0 <= self.learning_rate < math.inf:
            raise ConfigError(
                f"model.finetune.learning_rate is {self.learning_rate}; expected 0 or more."
            )

    @property
    def begins(self) -> int | None:
        """The first epoch in which some stages of the encoder train; None if they never do.

        While the encoder doesn't train, its features can be computed once.
        """
        return self.from_epoch if self.stages else None

    def trains(self, epoch: int) -> bool:
        """Return whether some stages of the encoder train in an epoch."""
        return self.begins is not None and epoch >= self.begins


def make_optimizer(
    network: CaptioningModel, learning_rate: float, weight_decay: float, finetune: FinetuneConfig
) -> torch.optim.AdamW:
    """Create AdamW with separate rates for the decoder and the encoder's trained stages.

    The temporal encoder of a model of clips and its head for events train with the decoder, from
    the start.

    Args:
        network: The network; its encoder is left frozen.
        learning_rate: The decoder's peak learning rate.
        weight_decay: The weight decay of matrices and kernels.
        finetune: Which stages of the encoder train, at which rate.
    """
    trained: dict[str, tuple[float, Iterable[nn.Parameter]]] = {
        "decoder": (learning_rate, network.decoder.parameters())
    }
    if network.temporal is not None:
        trained["temporal"] = (learning_rate, network.temporal.parameters())
    if network.event_head is not None:
        trained["events"] = (learning_rate, network.event_head.parameters())
    if finetune.stages:
        network.encoder.unfreeze(finetune.stages, freeze_batchnorm=finetune.freeze_batchnorm)
        trained["encoder"] = (finetune.learning_rate, list(network.encoder.trained_parameters()))
        network.encoder.unfreeze(())
    return torch.optim.AdamW(parameter_groups(trained, weight_decay), betas=(0.9, 0.98))


def parameter_groups(
    trained: Mapping[str, tuple[float, Iterable[nn.Parameter]]], weight_decay: float
) -> list[dict[str, Any]]:
    """Split each part's parameters into groups with weight decay and without.

    Biases and scales have no weight decay.

    Args:
        trained: The peak learning rate and the parameters of each part of the network.
        weight_decay: The weight decay of matrices and kernels.

    Returns:
        The non-empty groups, named after their part; names of those without decay end in "/1d".

    Raises:
        ConfigError: The weight decay is below 0.
    """
    if not 0 <= weight_decay < math.inf:
        raise ConfigError(f"model.weight_decay is {weight_decay}; expected 0 or more.")
    groups: list[dict[str, Any]] = []
    for name, (rate, parameters) in trained.items():
        everything = list(parameters)
        for suffix, flat, decay in (("", False, weight_decay), ("/1d", True, 0.0)):
            params = [parameter for parameter in everything if (parameter.ndim < 2) is flat]
            if params:
                groups.append(
                    {"name": name + suffix, "lr": rate, "params": params, "weight_decay": decay}
                )
    return groups


def check_schedule(learning_rate: float, warmup_steps: int, final_share: float) -> None:
    """Check the options of the learning rate.

    Args:
        learning_rate: The peak learning rate.
        warmup_steps: See `cosine_rate`.
        final_share: See `cosine_rate`.

    Raises:
        ConfigError: A number is out of range.
    """
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"model.learning_rate is {learning_rate}; expected a number above 0.")
    if warmup_steps < 0:
        raise ConfigError(f"model.warmup_steps is {warmup_steps}; expected 0 or more.")
    if not 0 <= final_share <= 1:
        raise ConfigError(f"model.final_share is {final_share}; expected a share from 0 to 1.")


def epoch_share(trainer: Trainer) -> float:
    """Return how far a run's current epoch is: from 0 in its first epoch to 1 in its last.

    The last epoch is that of the last step, as a run may end by `max_steps` alone.
    """
    a_step = trainer.accumulate_grad_batches
    epochs = trainer.estimated_stepping_batches / math.ceil(trainer.num_training_batches / a_step)
    last = max(1, math.ceil(epochs) - 1) if epochs < math.inf else math.inf
    return min(1.0, trainer.current_epoch / last)


def cosine_rate(step: int, steps: float, warmup_steps: int, final_share: float) -> float:
    """Compute the share of the peak learning rate at a step.

    It is a linear warm-up times a half cosine from 1 to `final_share`.
    """
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return warm * (final_share + (1 - final_share) * fall)
