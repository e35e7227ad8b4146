"""Distillation (Hinton, Vinyals and Dean 2015): learn the mean word probabilities of teachers."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import read_checkpoint
from captioner.errors import ConfigError
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import TeacherForced
from captioner.model.encoder import Encoder
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import START, UNKNOWN, Vocabulary

logger = logging.getLogger(__name__)

INIT_FROM = "init_from"  # as a teacher: the checkpoint that the run begins with


@dataclass(frozen=True)
class DistillationConfig:
    """The teachers that a model learns from, besides the captions.

    Args:
        teachers: Checkpoint folders with the same preprocessing and vocabulary, or one that lacks
            the model's newest words; the probabilities of several teachers are averaged.
            "init_from" is the checkpoint that the run begins with: the model then keeps what it
            knew (learning without forgetting; Li and Hoiem 2016). Empty to learn from
            captions only.
        weight: Share of the loss that comes from the teachers; the rest is cross-entropy with the
            captions.
    """

    teachers: list[str] = field(default_factory=list)
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(
                f"model.distillation.weight is {self.weight}; expected a share from 0 to 1."
            )

    def folders(self, init_from: str | None) -> list[str]:
        """Return the teachers' folders; "bundled" stays as it is.

        Args:
            init_from: The checkpoint folder that the run begins with.

        Raises:
            ConfigError: It is a teacher, and the run begins with a new network.
        """
        if init_from is None and INIT_FROM in self.teachers:
            raise ConfigError(
                f"model.distillation.teachers has {INIT_FROM}, but model.init_from is null; name"
                " the checkpoint that the run begins with there."
            )
        return [str(init_from) if each == INIT_FROM else each for each in self.teachers]


class JointEncoder(nn.Module):
    """Several frozen encoders as one, so that the features of all can be computed once.

    Args:
        encoders: Encoders with the same grid.

    Attributes:
        grid: Side of the region grid.
        regions: L, the number of regions.
        width: The sum of their feature widths.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.grid, self.regions = encoders[0].grid, encoders[0].regions
        self.width = sum(encoder.width for encoder in encoders)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels (B, 3, S, S) into all region features, concatenated to (B, L, width)."""
        return torch.cat([encoder(pixels) for encoder in self.encoders], dim=2)


class Teachers:
    """Frozen models that predict the probability of each next word of a caption.

    Args:
        folders: Their checkpoint folders, or "bundled".
        vocabulary: The model's vocabulary: theirs, and perhaps more words behind it.
        preprocessing: The preprocessing that they must have.

    Attributes:
        words: The number of words that they know, the first of the vocabulary.

    Raises:
        CheckpointError: A folder is not a checkpoint.
        ConfigError: A teacher's vocabulary or preprocessing differs.
    """

    def __init__(
        self,
        folders: Sequence[str | os.PathLike[str]],
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
    ) -> None:
        self.models: list[CaptioningModel] = []
        self._parts: dict[int, slice] = {}  # each teacher's slice of the joint features
        self.words = 0
        for folder in folders:
            checkpoint = read_checkpoint(folder)
            words = checkpoint.vocabulary.words
            known = words == vocabulary.words[: len(words)]
            if (
                not known
                or self.words not in (0, len(words))
                or (checkpoint.preprocessing != preprocessing)
            ):
                raise ConfigError(
                    f"The vocabulary or the preprocessing of the teacher {folder} differs from the"
                    " model's. Train it with the same data.min_count, data.train and"
                    " data.preprocessing."
                )
            self.words = len(words)
            self.models.append(TorchBackend.from_checkpoint(checkpoint).model.requires_grad_(False))
        logger.info("Teachers: %s", ", ".join(map(str, folders)))

    @property
    def nbytes(self) -> int:
        """Bytes of their weights."""
        return sum(
            tensor.nbytes
            for model in self.models
            for tensor in (*model.parameters(), *model.buffers())
        )

    def join(self, own: Encoder) -> Encoder | JointEncoder:
        """Join the teachers' distinct encoders with the model's, to cache all features.

        Args:
            own: The model's encoder, frozen; its features come first.

        Raises:
            ConfigError: A teacher has another grid.
        """
        encoders = [own]
        for index, model in enumerate(self.models):
            encoder = model.to(next(own.parameters()).device).encoder
            if encoder.grid != own.grid:
                raise ConfigError(
                    f"Grid mismatch: a teacher has {encoder.grid} x {encoder.grid} regions, the"
                    f" model {own.grid} x {own.grid}, so their features cannot be cached together:"
                    " set data.cache_features to 0."
                )
            same = [known for known in encoders if _same(known, encoder)]
            if not same:
                encoders.append(encoder)
            start = sum(
                known.width for known in encoders[: encoders.index(same[0] if same else encoder)]
            )
            self._parts[index] = slice(start, start + encoder.width)
        return own if len(encoders) == 1 else JointEncoder(encoders)

    @torch.no_grad()
    def probabilities(self, inputs: Tensor, captions: Tensor) -> Tensor:
        """Compute the mean of the teachers' probabilities of all words that they know.

        Args:
            inputs: Pixels, or the features (B, L, D) of the joint encoder.
            captions: (B, K, T) ids, padded; a word that they don't know is unknown to them, and a
                style that they don't know is the plain one.

        Returns:
            (N, V), in the order of `Decoder.forward`; V is their number of words.
        """
        newer = captions >= self.words
        captions = captions.masked_fill(newer, UNKNOWN)
        captions[:, :, 0] = captions[:, :, 0].masked_fill(newer[:, :, 0], START)
        total: Tensor | None = None
        for index, model in enumerate(self.models):
            model.to(inputs.device).eval()
            features = (
                model.encoder(inputs) if inputs.ndim > 3 else inputs[:, :, self._parts[index]]
            )
            output = model.decoder(model.regions_of(features), captions)
            own = output.logits.float().softmax(dim=1)
            total = own if total is None else total + own
        assert total is not None
        return total / len(self.models)


def _same(one: Encoder, other: Encoder) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def soft_cross_entropy(output: TeacherForced, expected: Tensor) -> Tensor:
    """Compute the cross-entropy of each word (N,) with expected probabilities (N, V).

    If V is less than the number of logits, the model's probabilities are those among the first V
    words: new words are learnt from captions alone, as in learning without forgetting.
    """
    logits = output.logits[:, : expected.shape[1]].float()
    return -(expected * logits.log_softmax(dim=1)).sum(dim=1)
