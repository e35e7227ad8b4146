"""What runs the network under the search: ONNX Runtime, or torch."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from captioner.decoding import Stepper


class Encoded(Stepper, Protocol):
    """Encoded images: what the search steps over, and what the model's classifier says of them."""

    @property
    def classes(self) -> NDArray[np.float32] | None:
        """The scores of its classes, (B, C); None for a model without a classifier."""


class Backend(Protocol):
    """What runs the network."""

    def encode(self, pixels: NDArray[np.float32]) -> Encoded:
        """Encode preprocessed images (B, 3, S, S); a stepper over them."""
