"""Who computes the features of a frozen encoder: not the data, which know of no encoder."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from captioner.data.dataset import CaptionDataset, Features

PixelBatches = Iterable[tuple[Tensor, Tensor]]  # pixels (B, 3, S, S), and which images they are of (B,)
LoadView = Callable[[CaptionDataset, int], PixelBatches]  # how one view of the images is loaded


class FeatureSource(Protocol):
    """Computes region features that take the place of images for as long as the encoder is frozen.

    Whoever trains gives one to the data module, which asks it for the features of each set of images.
    """

    @property
    def until(self) -> int | None:
        """The first epoch in which the encoder trains, and needs images; None if it never does."""

    def compute(self, views: Sequence[CaptionDataset], load: LoadView, *, folder: Path, training: bool) -> Features:
        """The features of one set of images, computed before or now.

        Args:
            views: One data set for each view: the same images, varied differently.
            load: Loads a view's images, given the view's number too.
            folder: Where features of these images are kept.
            training: Whether these are images to train on, of which distillation needs more.
        """
