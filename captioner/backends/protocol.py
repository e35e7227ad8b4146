"""The interfaces of backends, used by the search and the loader."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from captioner.checkpoint import Checkpoint
from captioner.decoding import Stepper
from captioner.decoding.arrays import IntArray


class Encoded(Stepper, Protocol):
    """Encoded images for the search, with their class logits."""

    @property
    def classes(self) -> NDArray[np.float32] | None:
        """The classifier's logits, (B, C); None for a model without a classifier."""

    @property
    def events(self) -> NDArray[np.float32] | None:
        """The logits of events at each frame, (B, F, E); None for a model without events."""

    @property
    def pooled(self) -> NDArray[np.float32]:
        """The mean features of each image, (B, D), to compare images."""

    def again(self, images: IntArray) -> "Encoded":
        """Return a stepper before its first step over some of the images.

        Args:
            images: (N,) their indices.
        """


class Backend(Protocol):
    """Runs the network."""

    def encode(self, pixels: NDArray[np.float32]) -> Encoded:
        """Encode preprocessed images (B, 3, S, S); return a stepper over them.

        A model of clips takes their frames, (B, F, 3, S, S).
        """


class BackendType(Protocol):
    """A backend's class, as `captioner.backends.choice` loads it."""

    def suits(self, checkpoint: Checkpoint, device: str | None) -> bool:
        """Return whether it can run the checkpoint on the device, so that "auto" may choose it."""

    def from_checkpoint(self, checkpoint: Checkpoint, device: str | None) -> Backend:
        """Load the checkpoint's network.

        Raises:
            CheckpointError: The folder is damaged, or lacks files that the backend requires.
            ConfigError: The device cannot be used.
        """
