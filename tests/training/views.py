"""Views of images, and how they are loaded, for tests of what is computed of them."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from captioner.annotations.records import Record
from captioner.data.dataset import Augmentation, collate
from captioner.data.sampling import Key
from captioner.data.views import ImageViews
from captioner.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(size=32)
FLIP = Augmentation(crop=0.5, flip=True)
COUNT = 5  # images


def views_of(
    records: list[Record],
    count: int = 2,
    preprocessing: Preprocessing = PREPROCESSING,
    augmentation: Augmentation = FLIP,
    seed: int = 0,
) -> ImageViews:
    """The plain view and augmented ones, as training makes them."""
    return ImageViews(records, preprocessing, count, augmentation, seed)


def load(views: ImageViews, keys: Sequence[Key]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in DataLoader(views, sampler=keys, batch_size=2, collate_fn=collate):
        if len(batch.indices):
            yield torch.stack([as_input(image.numpy()) for image in batch.inputs]), batch.indices


def as_input(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(PREPROCESSING.normalize(Image.fromarray(pixels)))
