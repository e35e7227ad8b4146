"""Records -> examples -> batches."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import Dataset

from captioner.data.annotations import Record
from captioner.errors import ConfigError
from captioner.images import open_image
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import PAD

_SIDES = re.compile(r"\b(?:left|right)(?:most|wards?|hand(?:ed)?)?\b", re.IGNORECASE)  # not: bright, leftover


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied, before they are preprocessed.

    Args:
        crop: Smallest share of the image's area that a random crop keeps; 1 doesn't crop.
        flip: Mirror half of the images, but for those whose captions speak of left or right.
        color: Largest relative change of brightness, contrast and saturation, each; 0 leaves colours alone.
    """

    crop: float = 1.0
    flip: bool = False
    color: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1 or not 0 <= self.color < 1:
            raise ConfigError(
                f"Augmentation with crop {self.crop} and color {self.color}; expected a crop above 0 and up to 1, "
                "and a color from 0 to below 1."
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator, *, may_flip: bool) -> Image.Image:
        """Vary one image, keeping its size in pixels to the crop's."""
        if self.crop < 1:
            image = _random_crop(image, self.crop, rng)
        if self.flip and may_flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.color:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhance(image).enhance(rng.uniform(1 - self.color, 1 + self.color))
        return image


def _random_crop(image: Image.Image, smallest: float, rng: np.random.Generator) -> Image.Image:
    """Crop a share of the area from `smallest` to all, its aspect changed by up to 4:3 (Szegedy et al. 2015)."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(smallest, 1)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))) * width / height
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return image.crop((left, top, left + w, top + h))
    return image


class Batch(NamedTuple):
    """Images with their captions.

    Attributes:
        images: Preprocessed pixels (B, 3, S, S), or region features (B, L, D) that were computed before.
        captions: (B, K, T) ids, padded; see `captioner.model.decoder.Decoder.forward` for their order.
        indices: (B,), which of the split's records these are.
    """

    images: Tensor
    captions: Tensor
    indices: Tensor


class CaptionDataset(Dataset[tuple[NDArray[np.float32], list[list[int]], int]]):
    """One example an image: what the encoder sees, its captions' ids, its index.

    Every random choice depends on the seed, the epoch and the image alone: not on the number of workers, nor on
    whether the run was resumed.

    Args:
        records: The split's records.
        captions: Their captions' ids, in the records' order.
        preprocessing: From image to pixels.
        captions_per_image: At most so many captions of an image are used in an epoch, chosen at random.
        augmentation: How images are varied; null leaves them.
        features: Region features (views, N, L, D) to use instead of images, one view chosen at random.
        seed: Of the random choices.
        epoch: Of the random choices.
    """

    def __init__(
        self,
        records: Sequence[Record],
        captions: Sequence[list[list[int]]],
        preprocessing: Preprocessing,
        *,
        captions_per_image: int = 5,
        augmentation: Augmentation | None = None,
        features: NDArray[np.float16] | None = None,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        self.records = records
        self.captions = captions
        self.preprocessing = preprocessing
        self.captions_per_image = captions_per_image
        self.augmentation = augmentation
        self.features = features
        self.seed = (seed, epoch)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], list[list[int]], int]:
        rng = np.random.default_rng((*self.seed, index))
        captions = self.captions[index]
        if len(captions) > self.captions_per_image:
            chosen = rng.choice(len(captions), self.captions_per_image, replace=False)
            captions = [captions[i] for i in chosen]
        if self.features is not None:
            return self.features[rng.integers(len(self.features)), index].astype(np.float32), captions, index
        return self._pixels(index, rng), captions, index

    def _pixels(self, index: int, rng: np.random.Generator) -> NDArray[np.float32]:
        record = self.records[index]
        image = open_image(record.path, min_size=self.preprocessing.size)
        if self.augmentation is not None:
            image = self.augmentation(image, rng, may_flip=not speaks_of_sides(record.captions))
        return self.preprocessing(image)


def speaks_of_sides(captions: Sequence[str]) -> bool:
    """Whether captions of an image may be wrong of its mirror image, because they say left or right."""
    return any(_SIDES.search(caption) for caption in captions)


def collate(examples: Sequence[tuple[NDArray[np.float32], list[list[int]], int]]) -> Batch:
    """Put examples into a batch: captions by falling length, images by their longest, as the decoder likes it."""
    ordered = [(image, sorted(captions, key=len, reverse=True), index) for image, captions, index in examples]
    ordered.sort(key=lambda example: len(example[1][0]), reverse=True)
    rows = max(len(captions) for _, captions, _ in ordered)
    padded = torch.full((len(ordered), rows, len(ordered[0][1][0])), PAD)
    for i, (_, captions, _) in enumerate(ordered):
        for k, caption in enumerate(captions):
            padded[i, k, : len(caption)] = torch.tensor(caption)
    return Batch(
        images=torch.from_numpy(np.stack([image for image, _, _ in ordered])),
        captions=padded,
        indices=torch.tensor([index for _, _, index in ordered]),
    )
