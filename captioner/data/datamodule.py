"""Annotation files -> batches, as a LightningDataModule."""

import logging
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from captioner.annotations.leaks import find_leaks
from captioner.annotations.records import Record, Split
from captioner.checkpoint import read_checkpoint
from captioner.data.dataset import Augmentation, Batch, CaptionDataset, Example, Features, as_input
from captioner.data.features import FeatureSource
from captioner.data.loading import Loaders, StagedLoader
from captioner.data.sampling import Replay, TrainingBatches, ValidationBatches
from captioner.data.sources import Source, Unreadable, UnreadableImages, divide, earlier_records
from captioner.datasets.shapes import draw_shapes
from captioner.errors import ConfigError, DataError
from captioner.preprocessing import Preprocessing
from captioner.tokenizer import tokenize
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary

logger = logging.getLogger(__name__)


class CaptionData(LightningDataModule):
    """Images with their captions: a training and a validation split.

    A split is a COCO captions JSON (read by pycocotools), Karpathy's `dataset_*.json`, or a CSV or JSONL file with the
    columns `image` and `caption`. An image is read once an epoch and feeds all its captions.

    Args:
        train: Annotations of the training split; Karpathy's "train" and "restval".
        val: Annotations of the validation split; null holds some of the training images out for it.
        train_images: Folder of the training images; null looks where data sets have them, see `load_records`.
        val_images: Folder of the validation images; null takes `train_images`.
        held_out: Share of the images that is held out where `val` is null; two at least, and the same in every run.
        leave_out: Share of the training images that is left out, to test choices on: those `held_out` would choose.
        unreadable: What a damaged or missing image does: "error" stops and names it, "skip" names it and goes on.
        preprocessing: From image to pixels, in training and inference alike; stored in the checkpoint. With
            `init_from`, that checkpoint's holds.
        min_count: Words seen fewer times in the training captions become the unknown word.
        max_length: Longest training caption in words; longer ones are cut.
        captions_per_image: At most so many captions of an image are used in an epoch.
        batch_size: Images a batch, of each process where several train together.
        workers: Processes that load images, for each training process; 0 loads in the training process itself.
        augmentation: How training images are varied.
        cache_features: While the encoder is frozen, compute its features once, in so many augmented views, and train
            on them; 0 encodes anew every time.
        cache_folder: Where computed features are kept. About 0.13 MB an image and view for 7x7 regions of width 1280.
        replay: Earlier data mixed in.
        draw_shapes: Draw a data set of so many images of coloured shapes into the folder of `train` if it isn't there.
        seed: Of the order of images, their variations and the choice of captions.
        init_from: Linked from the model: the checkpoint folder whose words and preprocessing are taken over.

    Attributes:
        feature_source: Computes the features that are cached; whoever trains sets it. Without one, images are encoded
            anew every time.
    """

    def __init__(
        self,
        train: Path,
        val: Path | None = None,
        train_images: Path | None = None,
        val_images: Path | None = None,
        held_out: float = 0.1,
        leave_out: float = 0.0,
        unreadable: Unreadable = "error",
        preprocessing: Preprocessing = Preprocessing(),  # noqa: B008
        min_count: int = 5,
        max_length: int = 22,
        captions_per_image: int = 5,
        batch_size: int = 32,
        workers: int = 1,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        cache_features: int = 0,
        cache_folder: Path = Path("data/features"),
        replay: Replay = Replay(),  # noqa: B008
        draw_shapes: int = 0,
        seed: int = 0,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.train_source = Source(Path(train), train_images)
        self.val_source = None if val is None else Source(Path(val), val_images or train_images)
        self.held_out = held_out
        self.leave_out = leave_out
        self.unreadable = unreadable
        self._unreadable_images = UnreadableImages(unreadable)
        self._base = None if init_from is None else read_checkpoint(None if init_from == "bundled" else init_from)
        self.preprocessing = preprocessing if self._base is None else self._base.preprocessing
        self.min_count = min_count
        self.max_length = max_length
        self.captions_per_image = captions_per_image
        self.batch_size = batch_size
        self.workers = workers
        self._loaders = Loaders(workers)
        self.augmentation = augmentation
        self.views = cache_features
        self.cache_folder = cache_folder
        self.feature_source: FeatureSource | None = None
        self.replay = replay
        self.shapes = draw_shapes
        self.seed = seed
        for name in ("min_count", "max_length", "captions_per_image", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; expected 1 or more.")
        for name, value in (("workers", workers), ("cache_features", cache_features), ("draw_shapes", draw_shapes)):
            if value < 0:
                raise ConfigError(f"data.{name} is {value}; expected 0 or more.")
        for name, share in (("held_out", held_out), ("leave_out", leave_out or 0.5)):
            if not 0 < share < 1:
                raise ConfigError(f"data.{name} is {share}; expected a share between 0 and 1.")

    @classmethod
    def of(cls, trainer: Trainer) -> "CaptionData":
        """The data module that a trainer trains with."""
        data = getattr(trainer, "datamodule", None)  # which Lightning sets, but doesn't declare
        assert isinstance(data, cls)
        return data

    def state_dict(self) -> dict[str, Any]:
        """What a run must be resumed with in the middle of an epoch: as many images a batch."""
        assert self.trainer is not None
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        within = 0 < done < self.trainer.num_training_batches
        return {"images": self.batch_size * self.trainer.world_size, "within": within}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on in the middle of an epoch with other batches.

        Raises:
            ConfigError: There are more or fewer images a batch.
        """
        assert self.trainer is not None
        images = self.batch_size * self.trainer.world_size
        if state_dict["within"] and state_dict["images"] != images:
            raise ConfigError(
                f"The run stopped within an epoch of batches of {state_dict['images']} images (data.batch_size x "
                f"processes), and would go on with {images}; go on with as many."
            )

    # --- What the splits hold ---

    @cached_property
    def records(self) -> dict[Split, list[Record]]:
        """The records of both splits; those of earlier data are the last of the training split's."""
        if self.shapes:
            draw_shapes(self.train_source.annotations.parent.parent, self.shapes)
        train = self.train_source.load("train", self.unreadable)
        if self.leave_out:
            train, _ = divide(train, self.leave_out)
        if self.val_source is None:
            train, val = self._hold_out(train)
        else:
            val = self.val_source.load("val", self.unreadable)
        self._fresh = len(train)
        train += earlier_records(self.replay, len(train), self.unreadable, seed=self.seed)
        for warning in find_leaks(train, val, self.min_count).warnings():
            logger.warning("%s", warning)
        return {"train": train, "val": val}

    def _hold_out(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """Divide the training split into what is trained on and what is validated on."""
        table = self.train_source.annotations
        train, val = divide(records, self.held_out)
        if not train:
            raise DataError(
                f"{table}: too few images ({len(records)}) to hold some out for validation. Add some, lower "
                "data.held_out, or name others in data.val."
            )
        logger.info("%s: %d of its %d images are held out for validation", table, len(val), len(records))
        return train, val

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the training split; after those of the checkpoint that training begins with, if any."""
        records = self.records["train"]
        if self._base is not None:  # earlier data bring no words that the checkpoint does without
            records = records[: self._fresh]
        captions = chain.from_iterable(self.tokens["train"][: len(records)])
        vocabulary = Vocabulary.build(captions, self.min_count)
        if self._base is not None:
            return self._base.vocabulary.extended(vocabulary.words)
        if len(vocabulary) == len(SPECIAL_WORDS):
            if not any(map(any, self.tokens["train"])):
                raise DataError("The training captions have no word; emoji and punctuation are none.")
            raise ConfigError(f"No word occurs {self.min_count} times in the training captions; lower data.min_count.")
        return vocabulary

    @cached_property
    def word_counts(self) -> list[int]:
        """How often each word, the end and the unknown word occur in the training split, in id order."""
        counts = Counter(word for captions in self.ids["train"] for caption in captions for word in caption[1:])
        return [counts[word] for word in range(len(self.vocabulary))]

    @cached_property
    def tokens(self) -> dict[Split, list[list[list[str]]]]:
        """The tokens of each record's captions."""
        return {
            split: [[tokenize(caption) for caption in record.captions] for record in records]
            for split, records in self.records.items()
        }

    @cached_property
    def ids(self) -> dict[Split, list[list[list[int]]]]:
        """The ids of each record's captions, from START to END."""
        return {
            split: [[self.vocabulary.encode(tokens, self.max_length) for tokens in captions] for captions in images]
            for split, images in self.tokens.items()
        }

    # --- Batches ---

    def train_dataloader(self) -> DataLoader[Example] | StagedLoader:
        """Training batches, shuffled; the loader, and its workers, serve all epochs."""
        assert self.trainer is not None
        replayed = len(self.records["train"]) - self._fresh
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.ready if loop.restarting else 0
        batches = TrainingBatches(
            len(self.records["train"]),
            self.batch_size,
            self._epoch,
            replayed=replayed,
            replay=min(replayed, self.replay.beside(self._fresh)),
            seed=self.seed,
            rank=self.trainer.global_rank,
            ranks=self.trainer.world_size,
            resumed=(self._epoch(), done),
        )
        return self._loaders.load(self._dataset("train"), batches)

    def val_dataloader(self) -> DataLoader[Example] | StagedLoader:
        """The validation split, in order."""
        assert self.trainer is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        dataset = self._dataset("val")
        return self._loaders.load(
            dataset, ValidationBatches(len(dataset), self.batch_size, self._epoch, rank=rank, ranks=ranks)
        )

    def _epoch(self) -> int:
        assert self.trainer is not None
        return 0 if self.trainer.overfit_batches else self.trainer.current_epoch  # type: ignore[attr-defined]

    def _dataset(self, split: Split) -> CaptionDataset:
        source = self.feature_source
        until = None if source is None else source.until
        frozen = until is None or self._epoch() < until
        return CaptionDataset(
            self.records[split],
            self.ids[split],
            self.preprocessing,
            captions_per_image=self.captions_per_image,
            augmentation=self.augmentation if split == "train" else None,
            features=self._features(split, source) if self.views and source is not None and frozen else None,
            features_until=until,
            substitute=split == "train" and self.unreadable == "skip",
            seed=self.seed,
        )

    def teardown(self, stage: str) -> None:
        """End the loading processes."""
        self._loaders.end()

    def on_exception(self, exception: BaseException) -> None:
        """End the loading processes, which heed no signal."""
        self._loaders.end()

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Name the images that could not be read, and stop if that is asked for, or if there are no others.

        Raises:
            DataError: An image cannot be read.
        """
        self._unreadable_images.report(batch.unreadable)
        if self.trainer is not None and self.trainer.training and not len(batch.indices):
            raise DataError(
                f"{self.train_source.annotations}: none of its images can be read, whose names stand above."
            )
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Send the images. Captions stay: they decide what the decoder runs, and asking a GPU for them is to wait."""
        return batch._replace(images=batch.images.to(device, non_blocking=batch.images.is_pinned()))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn what was sent in few bytes into what the network takes: (B, 3, S, S) or (B, L, D), float32."""
        return batch._replace(images=as_input(batch.images, self.preprocessing))

    # --- Features of a frozen encoder ---

    def _features(self, split: Split, source: FeatureSource) -> Features:
        training = split == "train"
        views = [self._view(split, view) for view in range(self.views if training else 1)]
        return source.compute(views, self._image_batches, folder=self.cache_folder, training=training)

    def _view(self, split: Split, view: int) -> CaptionDataset:
        """The images as they are for the first view, varied for the others."""
        return CaptionDataset(
            self.records[split],
            self.ids[split],
            self.preprocessing,
            augmentation=self.augmentation if view else None,
            seed=self.seed,
        )

    def _image_batches(self, dataset: CaptionDataset, view: int) -> Iterator[tuple[Tensor, Tensor]]:
        assert self.trainer is not None
        for batch in self._loaders.load(dataset, ValidationBatches(len(dataset), self.batch_size, lambda: view)):
            self._unreadable_images.report(batch.unreadable)
            if len(batch.indices):
                pixels = as_input(batch.images.to(self.trainer.strategy.root_device), self.preprocessing)
                yield pixels, batch.indices
