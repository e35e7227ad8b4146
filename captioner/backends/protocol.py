"""What a backend is: what the search, and whoever loads one, knows of it."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from captioner.checkpoint import Checkpoint
from captioner.decoding import Stepper


class Encoded(Stepper, Protocol):
    """Encoded images: what the search steps over, and what the model's classifier says of them."""

    @property
    def classes(self) -> NDArray[np.float32] | None:
        """The scores of its classes, (B, C); None for a model without a classifier."""

    @property
    def pooled(self) -> NDArray[np.float32]:
        """The mean features of each image, (B, D): what tells how much two images differ."""


class Backend(Protocol):
    """What runs the network."""

    def encode(self, pixels: NDArray[np.float32]) -> Encoded:
        """Encode preprocessed images (B, 3, S, S); a stepper over them.

        A model of clips takes their frames, (B, F, 3, S, S).
        """


class BackendType(Protocol):
    """A backend's class, as `captioner.backends.choice` loads it."""

    def suits(self, checkpoint: Checkpoint, device: str | None) -> bool:
        """Say whether it can run the checkpoint on the device, so that "auto" may take it."""

    def from_checkpoint(self, checkpoint: Checkpoint, device: str | None) -> Backend:
        """Load the checkpoint's network.

        Raises:
            CheckpointError: The folder is damaged, or lacks what the backend reads.
            ConfigError: The device cannot be used.
        """
