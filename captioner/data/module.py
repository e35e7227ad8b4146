"""Annotation files -> batches, as a LightningDataModule."""

import logging
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from captioner.data.annotations import Record, check_images, load_records
from captioner.data.dataset import Augmentation, Batch, CaptionDataset, collate
from captioner.data.features import cached_features
from captioner.data.shapes import draw_shapes
from captioner.errors import ConfigError
from captioner.evaluation.tokenizer import tokenize
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class CaptionData(LightningDataModule):
    """Images with their captions: a training and a validation split.

    A split is a COCO captions JSON (read by pycocotools), or a CSV or JSONL file with the columns `image` and
    `caption`. An image is read once an epoch and feeds all its captions.

    Args:
        train: Annotations of the training split.
        val: Annotations of the validation split.
        train_images: Folder of the training images; null looks beside the annotations (CSV and JSONL).
        val_images: Folder of the validation images; null takes `train_images`.
        preprocessing: From image to pixels, in training and inference alike; stored in the checkpoint.
        min_count: Words seen fewer times in the training captions become the unknown word.
        max_length: Longest training caption in words; longer ones are cut.
        captions_per_image: At most so many captions of an image are used in an epoch.
        batch_size: Images a batch.
        workers: Processes that load images; 0 loads in the training process.
        augmentation: How training images are varied.
        cache_features: While the encoder is frozen, compute its features once, in so many augmented views, and train
            on them; 0 encodes anew every time.
        cache_folder: Where computed features are kept. About 0.13 MB an image and view for 7x7 regions of width 1280.
        draw_shapes: Draw a data set of so many images of coloured shapes into the folder of `train` if it isn't there.
        seed: Of the order of images, their variations and the choice of captions.
    """

    def __init__(
        self,
        train: Path,
        val: Path,
        train_images: Path | None = None,
        val_images: Path | None = None,
        preprocessing: Preprocessing = Preprocessing(),  # noqa: B008
        min_count: int = 5,
        max_length: int = 22,
        captions_per_image: int = 5,
        batch_size: int = 32,
        workers: int = 1,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        cache_features: int = 0,
        cache_folder: Path = Path("data/features"),
        draw_shapes: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sources = {"train": (Path(train), train_images), "val": (Path(val), val_images or train_images)}
        self.preprocessing = preprocessing
        self.min_count = min_count
        self.max_length = max_length
        self.captions_per_image = captions_per_image
        self.batch_size = batch_size
        self.workers = workers
        self.augmentation = augmentation
        self.views = cache_features
        self.cache_folder = cache_folder
        self.shapes = draw_shapes
        self.seed = seed
        self._features: dict[str, NDArray[np.float16]] = {}
        for name in ("min_count", "max_length", "captions_per_image", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; expected 1 or more.")

    @cached_property
    def records(self) -> dict[str, list[Record]]:
        """The records of both splits."""
        if self.shapes:
            draw_shapes(self.sources["train"][0].parent.parent, self.shapes)
        records = {split: load_records(*source) for split, source in self.sources.items()}
        for split in records.values():
            check_images(split)
        return records

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the training split."""
        captions = (tokenize(caption) for record in self.records["train"] for caption in record.captions)
        return Vocabulary.build(captions, self.min_count)

    @cached_property
    def word_counts(self) -> list[int]:
        """How often each word, the end and the unknown word occur in the training split, in id order."""
        counts = Counter(word for captions in self._ids["train"] for caption in captions for word in caption[1:])
        return [counts[word] for word in range(len(self.vocabulary))]

    @cached_property
    def _ids(self) -> dict[str, list[list[list[int]]]]:
        return {
            split: [[self.vocabulary.encode(tokenize(text), self.max_length) for text in r.captions] for r in records]
            for split, records in self.records.items()
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        """One epoch of training batches, shuffled."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        dataset = self._dataset("train", epoch)
        order = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        return self._loader(dataset, shuffle=True, drop_last=len(dataset) >= self.batch_size, generator=order)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split, in order."""
        return self._loader(self._dataset("val"))

    def _dataset(self, split: str, epoch: int = 0) -> CaptionDataset:
        assert self.trainer is not None
        augmentation = self.augmentation if split == "train" else None
        features = None
        module: Any = self.trainer.lightning_module  # a CaptioningModule, which data may not import
        if self.views and not module.encoder_trains(self.trainer.current_epoch):
            if split not in self._features:  # the encoder is frozen: they are the same in each epoch
                views = [self._view(split, view) for view in range(self.views if split == "train" else 1)]
                with self.trainer.precision_plugin.forward_context():
                    self._features[split] = cached_features(
                        self.cache_folder, module.network.encoder, views, self._image_batches
                    )
            features = self._features[split]
        return CaptionDataset(
            self.records[split],
            self._ids[split],
            self.preprocessing,
            captions_per_image=self.captions_per_image,
            augmentation=augmentation,
            features=features,
            seed=self.seed,
            epoch=epoch,
        )

    def _view(self, split: str, view: int) -> CaptionDataset:
        """The images as they are for the first view, varied for the others."""
        augmentation = self.augmentation if view else None
        return CaptionDataset(
            self.records[split],
            self._ids[split],
            self.preprocessing,
            augmentation=augmentation,
            seed=self.seed,
            epoch=view,
        )

    def _image_batches(self, dataset: CaptionDataset) -> Iterator[tuple[Tensor, Tensor]]:
        return ((batch.images, batch.indices) for batch in self._loader(dataset))

    def _loader(self, dataset: CaptionDataset, **options: object) -> DataLoader[Batch]:
        return DataLoader(
            dataset,  # type: ignore[arg-type]
            self.batch_size,
            collate_fn=collate,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            **options,  # type: ignore[arg-type]
        )
