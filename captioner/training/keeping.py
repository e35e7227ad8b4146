"""Learning without forgetting (Li and Hoiem 2016): preserve the classifier's predictions."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from captioner.checkpoint import encoder_weights
from captioner.model.captioning import CaptioningModel
from captioner.model.pretrained import load_pretrained
from captioner.training.frozen_part import FrozenPart


class OriginalClasses:
    """The predictions of the encoder's classifier before fine-tuning.

    Contains a copy of the encoder, but for the stages that both share, if any. This is not an
    `nn.Module`, so the copy is neither trained nor saved with the network.

    Args:
        network: The network at the start of its run, before any state is resumed; it has a
            classifier.
        part: The part of its encoder that doesn't train.
        weights: Pretrained weights of the encoder that its classifier belongs to, as for
            `load_pretrained`, or "bundled"; None for its present ones.

    Raises:
        CheckpointError: The weights are missing, damaged or of another network.
        ConfigError: There are no such weights.
    """

    def __init__(
        self, network: CaptioningModel, part: FrozenPart, weights: str | None = None
    ) -> None:
        self.encoder = copy.deepcopy(network.encoder).requires_grad_(False)
        self.part = part
        if weights is not None:
            load_pretrained(self.encoder, network.configs[0].name, encoder_weights(weights))
        self.shares = all(
            _are_same(self.encoder.cnn.get_submodule(name), network.encoder.cnn.get_submodule(name))
            for name in part.stages
        )
        for name in part.stages if self.shares else ():
            self.encoder.cnn.set_submodule(name, nn.Identity())

    def __deepcopy__(self, memo: dict[int, Any]) -> "OriginalClasses":
        return self  # it never changes

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return sum(
            tensor.nbytes for tensor in (*self.encoder.parameters(), *self.encoder.buffers())
        )

    def encode(self, network: CaptioningModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images with the trained encoder, and measure how far its classifier has drifted.

        Args:
            network: The network that trains.
            pixels: (B, 3, S, S).

        Returns:
            The region features (B, L, D), and KL(original || current) of the classifier's
            distributions in nats, mean over images.
        """
        done = self.part.output(network.encoder, pixels)
        features = self.part.finish(network.encoder, pixels, done)
        with torch.no_grad():
            encoder = self.encoder.to(pixels.device).eval()
            shared = done if self.shares else None
            original = network.classes(self.part.finish(encoder, pixels, shared))
        return features, _divergence(network.classes(features), original)


def _are_same(stage: nn.Module, other: nn.Module) -> bool:
    """Return whether two stages have the same weights, up to their rounding to float16."""
    tensors = other.state_dict()
    return all(
        torch.allclose(tensor, tensors[name], rtol=1e-3, atol=1e-4)
        for name, tensor in stage.state_dict().items()
        if tensor.is_floating_point()
    )


def _divergence(current: Tensor | None, original: Tensor | None) -> Tensor:
    """Compute KL(original || current) of the distributions of logits (B, C), mean over images."""
    assert current is not None
    assert original is not None
    return nn.functional.kl_div(
        current.float().log_softmax(dim=1),
        original.float().log_softmax(dim=1),
        log_target=True,
        reduction="batchmean",
    )
