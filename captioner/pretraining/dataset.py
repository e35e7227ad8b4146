"""Labelled images -> examples -> batches."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from captioner.data.dataset import Augmentation
from captioner.data.sampling import Key
from captioner.errors import ImageError
from captioner.preprocessing import Preprocessing
from captioner.pretraining.sources import LabelledImages
from captioner.pretraining.warp import Warp


class LabelledExample(NamedTuple):
    """An image with its class.

    Attributes:
        image: (S, S, 3) uint8, or two views of it (2, S, S, 3); None if it cannot be read.
        label: The index of its class.
        unreadable: Why the image could not be read; empty otherwise.
    """

    image: NDArray[np.uint8] | None
    label: int
    unreadable: str = ""


class LabelledBatch(NamedTuple):
    """Images with their classes.

    Attributes:
        images: (B, S, S, 3) uint8, or (B, 3, S, S) float once they are normalized; two views of
            each are (B, 2, S, S, 3) and (B, 2, 3, S, S).
        labels: (B,) the index of each image's class.
        unreadable: Why images could not be read, one sentence per image.
    """

    images: Tensor
    labels: Tensor
    unreadable: list[str]


class LabelledDataset(Dataset[LabelledExample]):
    """One example per image, indexed by `Key`, on which all random choices depend.

    Args:
        images: The images.
        preprocessing: From image to pixels.
        augmentation: The augmentation before preprocessing; None for none.
        warp: The warping after it; None for none.
        seed: The seed of the augmentation.
        paired: Whether to return two views of each image, augmented independently.
    """

    def __init__(
        self,
        images: LabelledImages,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        warp: Warp | None = None,
        seed: int = 0,
        paired: bool = False,
    ) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.warp = warp
        self.seed = seed
        self.paired = paired

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> LabelledExample:
        _, index, *_ = key
        rng = np.random.default_rng((self.seed, *key))
        label = int(self.images.labels[index])
        try:
            image = self.images.open(index, self.preprocessing.size)
        except ImageError as error:
            return LabelledExample(None, label, str(error))
        if self.paired:
            views = [self._vary(image, rng) for _ in range(2)]
            return LabelledExample(np.stack(views), label)
        return LabelledExample(self._vary(image, rng), label)

    def _vary(self, image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        if self.augmentation is not None:
            image = self.augmentation(image, rng, may_flip=True)
        image = self.preprocessing.fit(image)
        if self.warp is not None:
            image = self.warp(image, rng)
        return np.array(image)


def collate(examples: Sequence[LabelledExample]) -> LabelledBatch:
    """Collate examples into a batch, skipping unreadable images; the batch may be empty."""
    read = [(each.image, each.label) for each in examples if each.image is not None]
    return LabelledBatch(
        images=(
            torch.from_numpy(np.stack([image for image, _ in read]))
            if read
            else torch.empty(0, dtype=torch.uint8)
        ),
        labels=torch.tensor([label for _, label in read], dtype=torch.long),
        unreadable=[example.unreadable for example in examples if example.unreadable],
    )
