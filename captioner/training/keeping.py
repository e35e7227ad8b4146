"""Learning without forgetting (Li and Hoiem 2016): while the encoder trains, its classifier says what it did before."""

import copy

import torch
from torch import Tensor, nn

from captioner.model.captioning import CaptioningModel


class OriginalClasses:
    """What the encoder's classifier said of images before the encoder trained.

    It is a copy of the encoder, and no module: it is neither trained nor saved with the network.

    Args:
        network: The network as its run begins, before any state is resumed; it has a classifier.
    """

    def __init__(self, network: CaptioningModel) -> None:
        self.encoder = copy.deepcopy(network.encoder).requires_grad_(False)

    @property
    def nbytes(self) -> int:
        """The memory of its weights."""
        return sum(tensor.nbytes for tensor in (*self.encoder.parameters(), *self.encoder.buffers()))

    def forgotten(self, network: CaptioningModel, pixels: Tensor, features: Tensor) -> Tensor:
        """The divergence KL(original || current) of the classifier's distributions, mean over images.

        Args:
            network: The network that trains.
            pixels: (B, 3, S, S).
            features: (B, L, D), what its encoder makes of them now.
        """
        with torch.no_grad():
            original = network.classes(self.encoder.to(pixels.device).eval()(pixels))
        return divergence(network.classes(features), original)


def divergence(current: Tensor | None, original: Tensor | None) -> Tensor:
    """KL(original || current) in nats of the distributions that scores (B, C) stand for, mean over images."""
    assert current is not None and original is not None, "the network has a classifier"
    return nn.functional.kl_div(
        current.float().log_softmax(dim=1),
        original.float().log_softmax(dim=1),
        log_target=True,
        reduction="batchmean",
    )
