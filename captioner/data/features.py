"""The interface by which the data get features of a frozen encoder, without knowing the encoder."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from captioner.data.dataset import Features
from captioner.data.sampling import Key
from captioner.data.views import ImageViews

PixelBatches = Iterable[
    tuple[Tensor, Tensor]
]  # pixels (B, 3, S, S), and which images they are of (B,)
LoadViews = Callable[
    [ImageViews, Sequence[Key]], PixelBatches
]  # how some (view, image) are loaded, all of one view


class FeatureSource(Protocol):
    """Computes region features that take the place of images for as long as the encoder is frozen.

    Whoever trains gives one to the data module, which asks it for the features of each set of
    images.
    """

    @property
    def until(self) -> int | None:
        """The first epoch in which the encoder trains, and needs images; None if it never does."""

    def compute(
        self, views: ImageViews, load: LoadViews, *, folder: Path, training: bool
    ) -> Features:
        """The features of a set of images, each computed before or now.

        Args:
            views: The images.
            load: Loads some of their views; leaves out images that cannot be read.
            folder: Where features of images are kept.
            training: Whether these are images to train on, of which distillation needs more.
        """
