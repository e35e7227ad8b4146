"""Annotation files -> batches, as a LightningDataModule."""

import logging
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from captioner.annotations.leaks import find_leaks
from captioner.annotations.records import Record, Split, find_missing, load_records
from captioner.checkpoint import read_checkpoint
from captioner.data.dataset import Augmentation, Batch, CaptionDataset, Features
from captioner.data.features import cached_features
from captioner.data.loading import Loaders, StagedLoader
from captioner.data.sampling import Replay, TrainingBatches, ValidationBatches, hold_out
from captioner.datasets.shapes import draw_shapes
from captioner.errors import ConfigError, DataError
from captioner.preprocessing import Preprocessing
from captioner.tokenizer import tokenize
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary

logger = logging.getLogger(__name__)

REPLAYED_EPOCHS = 10  # so many epochs have all different earlier images, where there are enough


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
    """

    def __init__(
        self,
        train: Path,
        val: Path | None = None,
        train_images: Path | None = None,
        val_images: Path | None = None,
        held_out: float = 0.1,
        leave_out: float = 0.0,
        unreadable: Literal["error", "skip"] = "error",
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
        self.train_source = Path(train), train_images
        self.val_source = None if val is None else (Path(val), val_images or train_images)
        self.held_out = held_out
        self.leave_out = leave_out
        self.unreadable = unreadable
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
            draw_shapes(self.train_source[0].parent.parent, self.shapes)
        train = self._load(*self.train_source, "train")
        left_out = hold_out([record.image_id for record in train], self.leave_out) if self.leave_out else ()
        train = [record for index, record in enumerate(train) if index not in left_out]
        train, val = self._hold_out(train) if self.val_source is None else (train, self._load(*self.val_source, "val"))
        self._fresh = len(train)
        train += self._earlier(len(train))
        for warning in find_leaks(train, val, self.min_count).warnings():
            logger.warning("%s", warning)
        return {"train": train, "val": val}

    def _hold_out(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """Divide the training split into what is trained on and what is validated on."""
        table, held_out = self.train_source[0], hold_out([record.image_id for record in records], self.held_out)
        if len(held_out) == len(records):
            raise DataError(
                f"{table}: too few images ({len(records)}) to hold some out for validation. Add some, lower "
                "data.held_out, or name others in data.val."
            )
        logger.info("%s: %d of its %d images are held out for validation", table, len(held_out), len(records))
        train, val = ([record for i, record in enumerate(records) if (i in held_out) is side] for side in (False, True))
        return train, val

    def _earlier(self, fresh: int) -> list[Record]:
        """The earlier data: as much as a few epochs need, so that few photos don't make thousands be encoded."""
        if self.replay.annotations is None:
            return []
        records = self._load(self.replay.annotations, self.replay.images, "train")
        count = min(len(records), REPLAYED_EPOCHS * self.replay.beside(fresh))
        chosen = np.random.default_rng(self.seed).choice(len(records), count, replace=False)
        logger.info("%s: %d of its %d images are replayed", self.replay.annotations, count, len(records))
        return [records[index] for index in sorted(chosen)]

    def _load(self, annotations: Path, images: Path | None, split: Split) -> list[Record]:
        records = load_records(annotations, images, split)
        missing = find_missing(records)
        if missing and (self.unreadable == "error" or len(missing) == len(records)):
            raise DataError(
                f"{annotations}: {len(missing)} of its {len(records)} images are missing, {missing[0].path} first. "
                "Check the images folder, or leave them out with data.unreadable=skip."
            )
        for record in missing:
            logger.warning("Skipped: %s: no such file", record.path)
        gone = {record.image_id for record in missing}
        return [record for record in records if record.image_id not in gone]

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

    def train_dataloader(self) -> DataLoader[Batch] | StagedLoader:
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

    def val_dataloader(self) -> DataLoader[Batch] | StagedLoader:
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
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module  # a CaptioningModule, which data may not import
        frozen = not module.encoder_trains(self._epoch())
        return CaptionDataset(
            self.records[split],
            self.ids[split],
            self.preprocessing,
            captions_per_image=self.captions_per_image,
            augmentation=self.augmentation if split == "train" else None,
            features=self._features(split, module.feature_encoder(split)) if self.views and frozen else None,
            features_until=module.finetune.from_epoch if module.finetune.stages else None,
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
        self._name(batch.unreadable)
        if self.trainer is not None and self.trainer.training and not len(batch.indices):
            raise DataError(f"{self.train_source[0]}: none of its images can be read, whose names stand above.")
        return batch

    def _name(self, unreadable: list[str]) -> None:
        for sentence in unreadable:
            if self.unreadable == "error":
                raise DataError(f"{sentence}. Mend or remove it, or leave such images out with data.unreadable=skip.")
            path = sentence.partition(": ")[0]  # once an image, in whatever way it is met again
            if path not in self._named:
                logger.warning("Skipped: %s", sentence)
                self._named.add(path)

    @cached_property
    def _named(self) -> set[str]:
        return set()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Send the images. Captions stay: they decide what the decoder runs, and asking a GPU for them is to wait."""
        return batch._replace(images=batch.images.to(device, non_blocking=batch.images.is_pinned()))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn what was sent in few bytes into what the network takes: (B, 3, S, S) or (B, L, D), float32."""
        return batch._replace(images=self._as_input(batch.images))

    def _as_input(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            return images.float()
        pixels = images.permute(0, 3, 1, 2).float() / 255
        mean, std = (
            pixels.new_tensor(three).view(3, 1, 1) for three in (self.preprocessing.mean, self.preprocessing.std)
        )
        return (pixels - mean) / std

    # --- Features of a frozen encoder ---

    def _features(self, split: Split, encoder: Any) -> Features:
        assert self.trainer is not None
        views = [self._view(split, view) for view in range(self.views if split == "train" else 1)]
        with self.trainer.precision_plugin.forward_context():
            return cached_features(self.cache_folder, encoder, views, self._image_batches)

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
            self._name(batch.unreadable)
            if len(batch.indices):
                yield self._as_input(batch.images.to(self.trainer.strategy.root_device)), batch.indices
