"""Images for pretraining -> batches, as a LightningDataModule."""

import logging
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from captioner.data.dataset import Augmentation, as_input
from captioner.data.resumable import ResumableData
from captioner.data.sampling import Draws, Key, ValidationBatches, hold_out
from captioner.data.sources import Unreadable, UnreadableImages
from captioner.errors import ConfigError, DataError
from captioner.preprocessing import Preprocessing
from captioner.pretraining.dataset import (
    LabelledBatch,
    LabelledDataset,
    LabelledExample,
    collate,
)
from captioner.pretraining.methods import Method
from captioner.pretraining.sources import (
    Known,
    LabelledImages,
    read_known,
    read_labelled,
    read_unlabelled,
)
from captioner.pretraining.warp import Warp

logger = logging.getLogger(__name__)


class Splits(NamedTuple):
    """The images to train on, to select the best weights with, and to test them on."""

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages | None


class PretrainingData(ResumableData):
    """Images with their classes.

    A split is a folder with a folder of images for each class, or a CSV file with the columns
    `image` and `label`. A torchvision dataset can replace all splits. Without labels, for
    `method: rotation` or `simsiam`, a split is a folder of images.

    Args:
        train: The training images.
        val: The images that select the best weights; null holds out some of the training images.
        test: The images for the final test of the best weights; null for none. A torchvision
            dataset has its own.
        images: The folder that image paths in tables are relative to; null for each table's own.
        dataset: "mnist", "cifar10" or "cifar100", instead of `train`.
        folder: The folder where torchvision keeps that dataset.
        download: Whether torchvision may download a missing dataset.
        held_out: The share of the training images to hold out if there is no `val`.
        unreadable: The handling of damaged images: "error" stops with their names, "skip" logs
            their names and continues.
        preprocessing: From image to pixels; a captioner with the encoder needs the same mean and
            std.
        augmentation: The augmentation of training images before resizing.
        warp: The warping of training images after resizing.
        batch_size: Images per batch and training process.
        workers: Data loading processes per training process; 0 loads in the training process
            itself.
        seed: The seed of the order of images and of their augmentation.
        method: Linked from the model; determines whether to use labels or pairs of views.
    """

    def __init__(
        self,
        train: Path | None = None,
        val: Path | None = None,
        test: Path | None = None,
        images: Path | None = None,
        dataset: Known | None = None,
        folder: Path = Path("data"),
        download: bool = False,
        held_out: float = 0.1,
        unreadable: Unreadable = "error",
        preprocessing: Preprocessing = Preprocessing(),  # noqa: B008
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        warp: Warp = Warp(),  # noqa: B008
        batch_size: int = 64,
        workers: int = 1,
        seed: int = 0,
        method: Method = "supervised",
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if (train is None) == (dataset is None):
            raise ConfigError(
                "Expected either data.train, a folder of classes or a table, or data.dataset."
            )
        if dataset is not None and (val or test):
            raise ConfigError("data.dataset has its own splits; remove data.val and data.test.")
        if batch_size < 1 or workers < 0:
            raise ConfigError(
                f"data.batch_size is {batch_size} and workers {workers}; expected 1 and 0 or more."
            )
        if not 0 < held_out < 1:
            raise ConfigError(f"data.held_out is {held_out}; expected a share between 0 and 1.")
        self.paths = train, val, test
        self.image_folder = images
        self.dataset = dataset
        self.folder = folder
        self.download = download
        self.held_out = held_out
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.warp = warp
        self.labelled = method == "supervised"
        self.paired = method == "simsiam"
        self._unreadable_images = UnreadableImages(unreadable)

    @classmethod
    def of(cls, trainer: Trainer) -> "PretrainingData":
        """Return the data module that a trainer trains with."""
        data = getattr(trainer, "datamodule", None)  # which Lightning sets, but doesn't declare
        assert isinstance(data, cls)
        return data

    @cached_property
    def splits(self) -> Splits:
        """The images of each split.

        Raises:
            DataError: The images or labels are invalid.
        """
        train, val, test = self._given
        if val is None:
            held_out = hold_out(train.names(), self.held_out)
            rest = [index for index in range(len(train)) if index not in held_out]
            if not rest:
                raise DataError("There are too few images to hold some out; add images.")
            val, train = train.chosen(sorted(held_out)), train.chosen(rest)
        sizes = (f"{len(train):,} images to train on", f"{len(val):,} to validate on")
        tested = () if test is None else (f"{len(test):,} to test on",)
        classes = (f"{len(self.classes)} classes",) if self.labelled else ()
        logger.info("Data: %s", ", ".join((*sizes, *tested, *classes)))
        return Splits(train, val, test)

    @property
    def classes(self) -> list[str]:
        """The names of the classes; empty if labels aren't needed."""
        return list(self._given[0].classes) if self.labelled else []

    @cached_property
    def _given(self) -> tuple[LabelledImages, LabelledImages | None, LabelledImages | None]:
        if self.dataset is not None:
            train, test = (
                read_known(self.dataset, self.folder, train=which, download=self.download)
                for which in (True, False)
            )
            return train, None, test
        first, *others = self.paths
        assert first is not None
        if not self.labelled:
            read = [None if path is None else read_unlabelled(path) for path in others]
            return read_unlabelled(first), read[0], read[1]
        train = read_labelled(first, self.image_folder)
        read = [
            None if path is None else read_labelled(path, self.image_folder, train.classes)
            for path in others
        ]
        return train, read[0], read[1]

    def train_dataloader(self) -> DataLoader[LabelledExample]:
        """Return shuffled training batches; the loader and its workers serve all epochs."""
        train = self.splits.train
        batches = self._training_batches([Draws(len(train), len(train))])
        return self._loader(self._varied(train), batches)

    def val_dataloader(self) -> DataLoader[LabelledExample]:
        """Return the validation split, in order."""
        val = self.splits.val
        dataset = self._varied(val) if self.paired else LabelledDataset(val, self.preprocessing)
        return self._loader(dataset, self._validation_batches(len(dataset)))

    def _varied(self, images: LabelledImages) -> LabelledDataset:
        return LabelledDataset(
            images, self.preprocessing, self.augmentation, self.warp, self.seed, self.paired
        )

    def test_batches(self) -> DataLoader[LabelledExample] | None:
        """Return the whole test split in order, in each process; None if there is none."""
        if self.splits.test is None:
            return None
        dataset = LabelledDataset(self.splits.test, self.preprocessing)
        batches = ValidationBatches(len(dataset), self.batch_size, lambda: 0)
        return self._loader(dataset, batches)

    def _loader(
        self, dataset: LabelledDataset, batches: Iterable[list[Key]]
    ) -> DataLoader[LabelledExample]:
        return self._loaders.make(dataset, batches, self.workers, collate)

    def on_before_batch_transfer(self, batch: LabelledBatch, dataloader_idx: int) -> LabelledBatch:
        """Log the names of unreadable images; stop if so configured or if none is readable.

        Raises:
            DataError: An image cannot be read.
        """
        self._unreadable_images.report(batch.unreadable)
        if self.trainer is not None and self.trainer.training and not len(batch.labels):
            raise DataError("None of the images of a batch can be read; see their names above.")
        return batch

    def on_after_batch_transfer(self, batch: LabelledBatch, dataloader_idx: int) -> LabelledBatch:
        """Convert compact uint8 images to the network's input, (B, 3, S, S) float32."""
        if not len(batch.labels):
            return batch
        return batch._replace(images=as_input(batch.images, self.preprocessing))
