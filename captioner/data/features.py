"""The interface between the data module and cached features, independent of the encoder."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from captioner.data.dataset import Features
from captioner.data.sampling import Key
from captioner.data.views import ImageViews

PixelBatches = Iterable[
    tuple[Tensor, Tensor]
]  # pixels (B, 3, S, S), and the indices of their images (B,)
LoadViews = Callable[
    [ImageViews, Sequence[Key]], PixelBatches
]  # loads some keys (view, image), all of one view


class FeatureSource(Protocol):
    """Computes region features that replace images while the encoder is frozen.

    The training module sets one on the data module, which requests the features of each set of
    images.
    """

    @property
    def until(self) -> int | None:
        """The first epoch in which the encoder trains, and requires images; None if never."""

    def compute(
        self, views: ImageViews, load: LoadViews, *, folder: Path, training: bool
    ) -> Features:
        """Return the features of a set of images, from the cache or newly computed.

        Args:
            views: The images.
            load: Loads some of their views; skips unreadable images.
            folder: The folder of the feature cache.
            training: Whether these are training images, for which distillation requires the
                teachers' features too.
        """
