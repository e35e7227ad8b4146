"""Records -> examples -> batches."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import Dataset

from captioner.annotations.records import Record
from captioner.data.corruptions import Corruptions
from captioner.data.sampling import Key
from captioner.errors import ConfigError, ImageError
from captioner.images import open_image
from captioner.preprocessing import Preprocessing
from captioner.video.parts import read_frames
from captioner.vocabulary import PAD

_SIDES = re.compile(
    r"\b(?:left|right)(?:most|wards?|hand(?:ed)?)?\b", re.IGNORECASE
)  # not: bright, leftover


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied, before they are preprocessed.

    Args:
        crop: Smallest share of the image's area that a random crop keeps; 1 doesn't crop.
        flip: Mirror half of the images, but for those whose captions speak of left or right.
        color: Largest relative change of brightness, contrast and saturation, each; 0 leaves
            colours alone.
        corruptions: Which share of the images is damaged, and how; last of all.
    """

    crop: float = 1.0
    flip: bool = False
    color: float = 0.0
    corruptions: Corruptions = field(default=Corruptions(), repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1 or not 0 <= self.color < 1:
            raise ConfigError(
                f"Augmentation with crop {self.crop} and color {self.color}; expected a crop above"
                " 0 and up to 1, and a color from 0 to below 1."
            )

    def __call__(
        self, image: Image.Image, rng: np.random.Generator, *, may_flip: bool
    ) -> Image.Image:
        """Vary one image, keeping its size in pixels to the crop's where it is not damaged."""
        mirrored = self.draw_flip(rng) and may_flip
        if self.crop < 1:
            image = _random_crop(image, self.crop, rng)
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.color:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhance(image).enhance(rng.uniform(1 - self.color, 1 + self.color))
        return self.corruptions(image, rng)

    def draw_flip(self, rng: np.random.Generator) -> bool:
        """Whether an image is mirrored if it may be: what is drawn first for it."""
        return self.flip and bool(rng.random() < 0.5)


def _random_crop(image: Image.Image, smallest: float, rng: np.random.Generator) -> Image.Image:
    """Crop a random share of the area, from `smallest` to 1, and change the aspect by up to 4:3.

    Source: Szegedy et al. 2015.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(smallest, 1)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))) * width / height
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return image.crop((left, top, left + w, top + h))
    return image


class Features:
    """Memory-mapped features; pickling them for a worker process sends only the paths.

    The features of an unreadable image are NaN.

    Args:
        files: Files of float16 (n, L, D), in numpy's format.
        places: (views, N, 2), the file and the row in it of the features of each view of each
            image.

    Attributes:
        views: Number of augmented views of each image.
    """

    def __init__(self, files: Sequence[Path], places: NDArray[np.int32]) -> None:
        self.files = files
        self.places = places
        self.views = len(places)
        self._arrays: list[NDArray[np.float16]] = [np.load(path, mmap_mode="r") for path in files]

    def __getitem__(self, key: tuple[int, int]) -> NDArray[np.float16]:
        """Return the features (L, D) of an image in a view; the key is (view, image)."""
        file, row = self.places[key]
        return np.array(self._arrays[file][row])

    def __reduce__(self) -> tuple[type["Features"], tuple[Sequence[Path], NDArray[np.int32]]]:
        return Features, (self.files, self.places)


class Example(NamedTuple):
    """An image with its captions.

    Attributes:
        image: Pixels (S, S, 3) uint8 or region features (L, D) float16; for a clip, those of its
            frames, (F, S, S, 3) or (F * L, D). None if unreadable.
        captions: Ids, from a start token to END.
        record: The index of its record in the split.
        unreadable: Why images could not be read, a sentence each.
        weights: The weight of each caption in the loss; empty if all are 1.
        events: The labels of events at each frame, (F, E), see `captioner.data.events`; None if not
            labelled.
    """

    image: NDArray[np.uint8] | NDArray[np.float16] | None
    captions: list[list[int]]
    record: int
    unreadable: tuple[str, ...] = ()
    weights: Sequence[float] = ()
    events: NDArray[np.float32] | None = None


class Batch(NamedTuple):
    """Images with their captions.

    Attributes:
        inputs: Pixels (B, S, S, 3) uint8, or cached region features (B, L, D) float16;
            (B, F, S, S, 3) or (B, F * L, D) for clips.
        captions: (B, K, T) ids, padded; see `captioner.model.decoder.Decoder.forward` for their
            order.
        indices: (B,), the indices of the images' records in the split.
        weights: (B, K), the weight of each caption in the loss; 0 for padding.
        unreadable: Why images could not be read, a sentence each.
        events: The labels of events at each frame, (B, F, E); None if not labelled.
    """

    inputs: Tensor
    captions: Tensor
    indices: Tensor
    weights: Tensor
    unreadable: list[str]
    events: Tensor | None = None


class CaptionDataset(Dataset[Example]):
    """One example per image: its pixels or features, its captions' ids, its index.

    The keys are `Key`. Every random choice depends only on the seed and the key, not on the number
    of workers or processes nor on resuming: an image that is drawn twice in an epoch is augmented
    in two ways. Workers live as long as the run.

    Args:
        records: The split's records.
        captions: Their captions' ids, in the order of the records.
        preprocessing: Converts images to pixels.
        weights: The weight of each caption in the loss; None if all are 1.
        captions_per_image: Maximum number of captions of an image in an epoch. They are sampled by
            their weights, and then all get the mean of the image's weights, so that weights don't
            count twice.
        augmentation: Augments images; None for no augmentation.
        features: Region features to use instead of images, in a random view.
        features_until: The first epoch that uses images again; None if there is none.
        substitute: Replace an unreadable image by the next readable one with its captions, so that
            training batches stay full.
        seed: The random seed.
        frames: F, the number of frames to read of each clip; 0 for images.
        events: The labels of events of each record, (F, E); None if not labelled.
    """

    def __init__(
        self,
        records: Sequence[Record],
        captions: Sequence[list[list[int]]],
        preprocessing: Preprocessing,
        *,
        weights: Sequence[Sequence[float]] | None = None,
        captions_per_image: int = 5,
        augmentation: Augmentation | None = None,
        features: Features | None = None,
        features_until: int | None = None,
        substitute: bool = False,
        seed: int = 0,
        frames: int = 0,
        events: Sequence[NDArray[np.float32]] | None = None,
    ) -> None:
        self.records = records
        self.captions = captions
        self.preprocessing = preprocessing
        self.weights = weights
        self.captions_per_image = captions_per_image
        self.augmentation = augmentation
        self.features = features
        self.features_until = features_until
        self.substitute = substitute
        self.seed = seed
        self.frames = frames
        self.events = events

    def __len__(self) -> int:
        return len(self.records)

    def has_features(self, epoch: int) -> bool:
        """Return whether an epoch's examples are features, not images."""
        return self.features is not None and (
            self.features_until is None or epoch < self.features_until
        )

    def __getitem__(self, key: Key) -> Example:
        epoch, index, *before = key
        unreadable: list[str] = []
        for candidate in range(index, index + len(self) if self.substitute else index + 1):
            index = candidate % len(self)
            rng = np.random.default_rng((self.seed, epoch, index, *before))
            captions, weights = self._choose(index, rng)
            try:
                image = self._image(epoch, index, rng)
                events = None if self.events is None else self.events[index]
                return Example(image, captions, index, tuple(unreadable), weights, events)
            except ImageError as error:
                unreadable.append(str(error))
        return Example(None, captions, index, tuple(unreadable), weights)

    def _choose(
        self, index: int, rng: np.random.Generator
    ) -> tuple[list[list[int]], Sequence[float]]:
        captions, count = self.captions[index], self.captions_per_image
        weights = () if self.weights is None else self.weights[index]
        if len(captions) <= count:
            return captions, weights
        mean = sum(weights) / len(captions)
        odds = [weight / sum(weights) for weight in weights] if len(set(weights)) > 1 else None
        chosen = rng.choice(len(captions), count, replace=False, p=odds)
        return [captions[i] for i in chosen], [mean] * count if weights else ()

    def _image(
        self, epoch: int, index: int, rng: np.random.Generator
    ) -> NDArray[np.uint8] | NDArray[np.float16]:
        record = self.records[index]
        if self.features is not None and self.has_features(epoch):
            features = self.features[int(rng.integers(self.features.views)), index]
            if np.isnan(features[0, 0]):
                raise ImageError(
                    str(record.path), "could not be read when its features were computed"
                )
            return features
        return load_pixels(record, self.preprocessing, self.frames, self.augmentation, rng)


def load_pixels(
    record: Record,
    preprocessing: Preprocessing,
    frames: int = 0,
    augmentation: Augmentation | None = None,
    rng: np.random.Generator | None = None,
) -> NDArray[np.uint8]:
    """Read the pixels of an image or a clip, as the encoder sees it.

    Args:
        record: The image or clip.
        preprocessing: Converts images to pixels.
        frames: F, the number of frames to read of a clip; 0 for an image.
        augmentation: Augments the image, or all frames of a clip in the same way; None for no
            augmentation.
        rng: The random generator of the augmentation; None for no augmentation.

    Returns:
        Pixels (S, S, 3), or (F, S, S, 3) for a clip.

    Raises:
        ImageError: It cannot be read.
    """

    def fit(image: Image.Image) -> NDArray[np.uint8]:
        if augmentation is not None and rng is not None:
            may_flip = not speaks_of_sides(record.captions)
            image = augmentation(image, copy.deepcopy(rng), may_flip=may_flip)
        return np.asarray(preprocessing.fit(image))

    if frames:
        return np.stack([fit(frame) for frame in read_frames(record.clip, frames)])
    return fit(open_image(record.path, min_size=preprocessing.size))


def speaks_of_sides(captions: Sequence[str]) -> bool:
    """Return whether captions say left or right, so that they may be wrong for the mirror image."""
    return any(_SIDES.search(caption) for caption in captions)


def collate(examples: Sequence[Example]) -> Batch:
    """Collate examples: captions by decreasing length, images by their longest caption.

    That order is the fastest for the decoder. Unreadable images are skipped; the batch may be
    empty.
    """
    ordered = [
        (example.image, _longest_first(example), example)
        for example in examples
        if example.image is not None
    ]
    ordered.sort(key=lambda example: len(example[1][0][0]), reverse=True)
    rows = max((len(captions) for _, captions, _ in ordered), default=0)
    padded = torch.full((len(ordered), rows, len(ordered[0][1][0][0]) if ordered else 0), PAD)
    weights = torch.zeros(len(ordered), rows)
    for i, (_, captions, _) in enumerate(ordered):
        for k, (caption, weight) in enumerate(captions):
            padded[i, k, : len(caption)] = torch.tensor(caption)
            weights[i, k] = weight
    return Batch(
        inputs=(
            torch.from_numpy(np.stack([image for image, _, _ in ordered]))
            if ordered
            else torch.empty(0)
        ),
        captions=padded,
        indices=torch.tensor([example.record for _, _, example in ordered], dtype=torch.long),
        weights=weights,
        unreadable=[sentence for example in examples for sentence in example.unreadable],
        events=_stacked([example.events for _, _, example in ordered]),
    )


def _stacked(events: Sequence[NDArray[np.float32] | None]) -> Tensor | None:
    """Return the labels of a batch, (B, F, E); None if not labelled."""
    labelled = [each for each in events if each is not None]
    return torch.from_numpy(np.stack(labelled)) if labelled else None


def _longest_first(example: Example) -> list[tuple[list[int], float]]:
    """Return an example's captions with their weights, the longest first."""
    weights = example.weights or [1.0] * len(example.captions)
    return sorted(
        zip(example.captions, weights, strict=True),
        key=lambda caption: len(caption[0]),
        reverse=True,
    )


def as_input(inputs: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Convert compact inputs to the network's input.

    Args:
        inputs: Pixels (B, S, S, 3) uint8, (B, F, S, S, 3) for clips, or features (B, L, D) float16.
        preprocessing: Normalizes pixels.

    Returns:
        Pixels (B, 3, S, S), (B, F, 3, S, S) for clips, or features (B, L, D); float32.
    """
    if inputs.dtype != torch.uint8:
        return inputs.float()
    pixels = inputs.movedim(-1, -3).float() / 255
    mean, std = (
        pixels.new_tensor(three).view(3, 1, 1) for three in (preprocessing.mean, preprocessing.std)
    )
    return (pixels - mean) / std
