"""What runs the network under the search: ONNX Runtime, or torch."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from captioner.decoding import Stepper


class Backend(Protocol):
    """What runs the network."""

    def encode(self, pixels: NDArray[np.float32]) -> Stepper:
        """Encode preprocessed images (B, 3, S, S); a stepper over them."""
