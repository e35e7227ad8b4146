"""Images with labels: folders of classes, tables, and torchvision datasets."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torchvision
from numpy.typing import NDArray
from PIL import Image

from captioner.annotations.entries import reading
from captioner.annotations.formats import csv_rows
from captioner.annotations.paths import existing_name
from captioner.annotations.records import Record, check_images
from captioner.errors import ConfigError, DataError, ImageError
from captioner.images import find_images, open_image

Known = Literal["mnist", "cifar10", "cifar100"]

_COLUMNS = ("image", "label")
_CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


@dataclass(frozen=True)
class LabelledImages:
    """Images with the class of each.

    Attributes:
        classes: The names of the C classes.
        labels: (N,) the index of each image's class; zeros if there are no classes.
        images: The files of the N images, or their pixels: (N, H, W) or (N, H, W, 3) uint8.
        folder: The folder that the files are in; None for pixels.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    images: Sequence[Path] | NDArray[np.uint8]
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int, min_size: int) -> Image.Image:
        """Open an image.

        Args:
            index: Its index.
            min_size: The required side in pixels; see `open_image`.

        Returns:
            The image in mode "RGB".

        Raises:
            ImageError: Its file cannot be read.
        """
        image = self.images[index]
        if isinstance(image, Path):
            return open_image(image, min_size=min_size)
        return Image.fromarray(image).convert("RGB")

    def names(self) -> list[str]:
        """Return the name of each image: its path within the folder, or its number.

        So names are the same where the folder is moved, or called by another path.
        """
        return [
            self._name(image) if isinstance(image, Path) else str(index)
            for index, image in enumerate(self.images)
        ]

    def _name(self, image: Path) -> str:
        if self.folder is not None and image.is_relative_to(self.folder):
            image = image.relative_to(self.folder)
        return image.as_posix()

    def chosen(self, indices: Sequence[int]) -> "LabelledImages":
        """Select images by their indices, in the given order."""
        images = (
            self.images[list(indices)]
            if isinstance(self.images, np.ndarray)
            else [self.images[index] for index in indices]
        )
        return LabelledImages(self.classes, self.labels[list(indices)], images, self.folder)


def read_labelled(
    path: Path, images: Path | None = None, classes: Sequence[str] | None = None
) -> LabelledImages:
    """Read a folder of classes, or a table.

    Args:
        path: A folder with a folder of images for each class, `class/photo.jpg`; or a CSV file with
            the columns `image` and `label`.
        images: The folder that the paths in a table are relative to; None for the table's own.
        classes: The allowed classes; None allows all that are found, sorted by name.

    Raises:
        DataError: The labels are invalid, or images are missing.
    """
    expected = (
        "; expected a folder with a folder of images for each class, or a CSV file with the columns"
        " image,label"
    )
    folder = path if path.is_dir() else path.parent if images is None else images
    with reading(path, expected):
        records = _folder_records(path) if path.is_dir() else list(_rows(path, folder))
    if not records:
        raise DataError(f"{path}: no labelled images in it; expected class/photo.jpg")
    check_images(records)
    counts = Counter(label for record in records for label in record.captions)
    known = sorted(counts) if classes is None else list(classes)
    unknown = sorted(counts.keys() - set(known))
    if unknown:
        raise DataError(
            f"{path}: the class {unknown[0]!r} is not in the training images; expected one of"
            f" {', '.join(known)}"
        )
    if len(known) < 2:
        raise DataError(f"{path}: all images are of the class {known[0]!r}; expected two or more")
    ids = {name: index for index, name in enumerate(known)}
    labels = np.array([ids[record.captions[0]] for record in records])
    return LabelledImages(tuple(known), labels, [record.path for record in records], folder)


def read_unlabelled(path: Path) -> LabelledImages:
    """Find the images of a folder, ignoring the names of its subfolders.

    Raises:
        DataError: The folder doesn't exist, or contains no images.
    """
    try:
        found = list(find_images(path))
    except ImageError as error:
        raise DataError(f"{error}; expected a folder of images") from error
    if not found:
        raise DataError(f"{path}: no images in it")
    return LabelledImages((), np.zeros(len(found), np.int64), found, path)


def read_known(name: str, folder: Path, *, train: bool, download: bool = False) -> LabelledImages:
    """Read a torchvision dataset from its own files.

    Args:
        name: "mnist", "cifar10" or "cifar100".
        folder: The folder where torchvision keeps it: the one above `MNIST/raw`,
            `cifar-10-batches-py` or `cifar-100-python`.
        train: Whether to read the training images or the test images.
        download: Whether to download a missing dataset.

    Raises:
        ConfigError: The dataset is unknown.
        DataError: The dataset is missing or damaged, or cannot be downloaded.
    """
    if name not in _CLASSES:
        raise ConfigError(
            f"data.dataset is {name!r}; expected one of {', '.join(get_args(Known))}, or null."
        )
    made = getattr(torchvision.datasets, _CLASSES[name])
    try:
        found = made(str(folder), train=train, download=download)
        pixels, labels = np.asarray(found.data), np.asarray(found.targets, np.int64)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        how = (
            "it cannot be downloaded, so copy its files there yourself"
            if download
            else "copy its files there, or let torchvision download them: --data.download=true"
        )
        raise DataError(f"{folder} has no complete {_CLASSES[name]} ({error}); {how}") from error
    # MNIST's are called "3 - three", CIFAR-100's "aquarium_fish".
    classes = (str(each).rpartition(" - ")[2].replace("_", " ") for each in found.classes)
    return LabelledImages(tuple(classes), labels, pixels)


def _folder_records(folder: Path) -> list[Record]:
    records = []
    for path in find_images(folder):
        inside = path.relative_to(folder)
        if len(inside.parts) < 2:
            raise DataError(
                f"{path} is not in a class folder; expected {folder / 'class' / inside}"
            )
        records.append(Record(str(inside), path, (inside.parts[0],)))
    return records


def _rows(path: Path, folder: Path) -> Iterator[Record]:
    for where, row in csv_rows(path, _COLUMNS):
        image, label = (row.get(key) or "" for key in _COLUMNS)
        for key, value in zip(_COLUMNS, (image, label), strict=True):
            if not value.strip():
                raise DataError(f"{where}: the field {key!r} is empty; expected text")
        yield Record(image, folder / existing_name(folder, image), (label.strip(),))
