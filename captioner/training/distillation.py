"""Distillation (Hinton, Vinyals and Dean 2015): a model learns what other models, together, say of each word."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import read_checkpoint
from captioner.errors import ConfigError
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import TeacherForced
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillationConfig:
    """Whose probabilities are learnt, beside the captions.

    Args:
        teachers: Checkpoint folders with the same words and preprocessing; several of them count as their mean. None:
            captions alone are learnt.
        weight: Share of the loss that comes from the teachers; the rest is cross-entropy with the captions.
    """

    teachers: list[str] = field(default_factory=list)
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"model.distillation.weight is {self.weight}; expected a share from 0 to 1.")


class Teachers:
    """Models that say how probable each next word of a caption is; they don't change.

    Args:
        folders: Their checkpoint folders.
        vocabulary: The words that they must have.
        preprocessing: What they must see.

    Raises:
        CheckpointError: A folder is no checkpoint.
        ConfigError: A model has other words or sees images differently.
    """

    def __init__(
        self, folders: Sequence[str | os.PathLike[str]], vocabulary: Vocabulary, preprocessing: Preprocessing
    ) -> None:
        self.models: list[CaptioningModel] = []
        for folder in folders:
            checkpoint = read_checkpoint(folder)
            if checkpoint.vocabulary != vocabulary or checkpoint.preprocessing != preprocessing:
                raise ConfigError(
                    f"The teacher {folder} has other words or preprocessing than what is trained; expected the same. "
                    "Train it with the same data.min_count, data.train and data.preprocessing."
                )
            self.models.append(TorchBackend.from_checkpoint(checkpoint).model.requires_grad_(False))
        logger.info("Taught by %s", ", ".join(map(str, folders)))

    @property
    def nbytes(self) -> int:
        """The memory of their weights."""
        return sum(tensor.nbytes for model in self.models for tensor in (*model.parameters(), *model.buffers()))

    def check_features_of(self, student: CaptioningModel) -> None:
        """Refuse the features that a model's encoder computes, where they would compute others.

        Raises:
            ConfigError: They would.
        """
        own = student.encoder.state_dict()
        for model in self.models:
            theirs = model.encoder.state_dict()
            if own.keys() != theirs.keys() or not all(torch.equal(own[name].cpu(), theirs[name].cpu()) for name in own):
                raise ConfigError(
                    "The teachers' encoders are not the one that is trained here, so they need images, not its "
                    "features: set data.cache_features to 0."
                )

    @torch.no_grad()
    def probabilities(self, images: Tensor, captions: Tensor) -> Tensor:
        """The mean of their probabilities of all words (N, V), in the order of `Decoder.forward`.

        Args:
            images: Pixels (B, 3, S, S), or the region features (B, L, D) of an encoder that they share.
            captions: (B, K, T) ids, padded.
        """
        total: Tensor | None = None
        for model in self.models:
            model.to(images.device).eval()
            features = model.encoder(images) if images.ndim == 4 else images
            own = model.decoder(features, captions).logits.float().softmax(dim=1)
            total = own if total is None else total + own
        assert total is not None
        return total / len(self.models)


def soft_cross_entropy(output: TeacherForced, expected: Tensor) -> Tensor:
    """Cross-entropy with expected probabilities (N, V), mean over words."""
    return -(expected * output.logits.float().log_softmax(dim=1)).sum(dim=1).mean()
