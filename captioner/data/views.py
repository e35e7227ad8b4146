"""Views of images whose features are cached, independent of all other images."""

import hashlib
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from captioner.annotations.records import Record
from captioner.data.dataset import Augmentation, Example, load_pixels, speaks_of_sides
from captioner.errors import ImageError
from captioner.preprocessing import Preprocessing

Facts = tuple[object, ...]


class ImageViews(Dataset[Example]):
    """Images in several views, the first unchanged, the others augmented; keys are (view, index).

    A view of an image depends only on its file, the seed and the view: not on other images, nor on
    the captions, except for whether it may be mirrored.

    Args:
        records: The images.
        preprocessing: Converts images to pixels.
        count: The number of views of each image.
        augmentation: Augments all views but the first.
        seed: The random seed of the augmentation.
        frames: F, the number of frames to read of each clip; 0 for images.
    """

    def __init__(
        self,
        records: Sequence[Record],
        preprocessing: Preprocessing,
        count: int = 1,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        seed: int = 0,
        frames: int = 0,
    ) -> None:
        self.records = records
        self.preprocessing = preprocessing
        self.count = count
        self.augmentation = augmentation
        self.seed = seed
        self.frames = frames

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        view, index = key
        record = self.records[index]
        rng = self._rng(view, index) if view else None
        try:
            pixels = load_pixels(record, self.preprocessing, self.frames, self.augmentation, rng)
        except ImageError as error:
            return Example(None, [[]], index, (str(error),))
        return Example(pixels, [[]], index)

    def facts(self, view: int, index: int) -> Facts:
        """Collect everything that the pixels of a view depend on, except the preprocessing.

        Raises:
            OSError: The image's file is gone.
        """
        record = self.records[index]
        path = record.path.resolve()
        stat = path.stat()
        file: Facts = (str(path), stat.st_size, stat.st_mtime_ns)
        if self.frames:
            file = (*file, record.start, record.end, self.frames)
        if not view:
            return file
        mirrored = self.augmentation.draw_flip(self._rng(view, index)) and not speaks_of_sides(
            record.captions
        )
        corruptions = self.augmentation.corruptions
        damaged = (corruptions,) if corruptions.share else ()  # older caches stay valid
        return (*file, self.augmentation, self.seed, view, mirrored, *damaged)

    def _rng(self, view: int, index: int) -> np.random.Generator:
        name = hashlib.sha256(str(self.records[index].path.resolve()).encode()).digest()
        return np.random.default_rng((self.seed, view, *name))
