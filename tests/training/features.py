"""Images whose features are computed, as training loads them."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from captioner.annotations.records import Record
from captioner.data.dataset import Augmentation, CaptionDataset, collate
from captioner.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(size=32)
FLIP = Augmentation(crop=0.5, flip=True)
COUNT = 5


def views_of(
    records: list[Record],
    count: int = 2,
    preprocessing: Preprocessing = PREPROCESSING,
    augmentation: Augmentation = FLIP,
    seed: int = 0,
    captions: int = 2,
) -> list[CaptionDataset]:
    """The plain view and augmented ones, as training makes them."""
    return [
        CaptionDataset(
            records,
            [[[1, 2]] * captions] * len(records),
            preprocessing,
            augmentation=augmentation if view else None,
            seed=seed,
        )
        for view in range(count)
    ]


def load(dataset: CaptionDataset, view: int) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in DataLoader(
        dataset, sampler=[(view, i) for i in range(len(dataset))], batch_size=2, collate_fn=collate
    ):
        if len(batch.indices):
            yield torch.stack([as_input(image.numpy()) for image in batch.images]), batch.indices


def as_input(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(PREPROCESSING.normalize(Image.fromarray(pixels)))
