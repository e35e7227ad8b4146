"""Annotation files -> batches, as a LightningDataModule."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain, compress
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from captioner.annotations.leaks import find_leaks
from captioner.annotations.records import Record, Split
from captioner.checkpoint import read_checkpoint
from captioner.data.dataset import Augmentation, Batch, CaptionDataset, Example, Features, as_input
from captioner.data.events import EventLabels, event_labels
from captioner.data.features import FeatureSource
from captioner.data.loading import StagedLoader
from captioner.data.resumable import ResumableData
from captioner.data.sampling import Key
from captioner.data.sources import Source, Unreadable, UnreadableImages, ValidationSource
from captioner.data.splits import TrainingSplit, ValidationSet, plan_data
from captioner.data.views import ImageViews
from captioner.datasets.clips import draw_clips
from captioner.datasets.shapes import draw_shapes
from captioner.errors import ConfigError, DataError
from captioner.events.config import EventConfig
from captioner.preprocessing import Preprocessing
from captioner.tokenizer import tokenize
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary

logger = logging.getLogger(__name__)


class CaptionData(ResumableData):
    """Images with their captions: a training and a validation split.

    A split is a COCO captions JSON (read by pycocotools), Karpathy's `dataset_*.json`, or a CSV or
    JSONL file with the columns `image` and `caption`. An image is read once an epoch and feeds all
    its captions. A run may train on several sources and be validated on several sets, `train` and
    `val` are the simple form of one each.

    Args:
        train: Annotations of the training split; Karpathy's "train" and "restval". Null where
            `sources` says all.
        val: Annotations of the validation split; null holds some of the images of `train` out for
            it.
        train_images: Folder of the training images; null looks where data sets have them, see
            `load_records`.
        val_images: Folder of the validation images; null takes `train_images`.
        sources: Data to train on, each under a name of your choice, beside or in place of `train`.
        validation: Sets to validate on in place of `val`, each under a name of your choice: scores
            are logged under it, and their mean by weight selects the best model.
        held_out: Share of the images that is held out where there is no set to validate on; two at
            least, and the same in every run.
        leave_out: Share of the images of `train` that is left out, to test choices on: those
            `held_out` would choose.
        unreadable: What a damaged or missing image does: "error" stops and names it, "skip" names
            it and goes on.
        preprocessing: From image to pixels, in training and inference alike; stored in the
            checkpoint. With `init_from`, that checkpoint's holds.
        min_count: Words seen fewer times in the training captions become the unknown word.
        max_length: Longest training caption in words; longer ones are cut.
        captions_per_image: Maximum number of captions per image in an epoch, drawn by their weight.
        batch_size: Images a batch, of each process where several train together.
        workers: Processes that load images, for each training process; 0 loads in the training
            process itself.
        augmentation: How training images are varied.
        cache_features: While the encoder is frozen, compute its features once, in this number of
            augmented views, and train on them; 0 encodes images at every step.
        cache_folder: Folder of the feature cache, shared by all data sets. About 0.13 MB per image
            and view for 7x7 regions of width 1280.
        draw_shapes: Draw a data set of so many images of coloured shapes into the folder of `train`
            if it isn't there.
        draw_clips: Draw a data set of so many clips of coloured shapes into the folder of `train`
            if it isn't there; needs the extra `video`.
        events: Table of events in the clips of both splits, with the columns `clip`, `start`, `end`
            in seconds and `label`: the model learns to tell them. A clip in which nothing happens
            has a row of empty times and label; those of clips without a row are unknown. Paths
            start from `train_images`, or the table's folder. Null for a model that tells none.
        seed: Of the order of images, their variations and the choice of captions.
        init_from: Linked from the model: the checkpoint folder whose words and preprocessing are
            taken over.
        frames: Linked from the model: how many frames it sees of each clip; 0 for images. With
            `init_from`, that checkpoint's number holds.

    Attributes:
        feature_source: Computes the cached features; set by the training module. Without it, images
            are encoded at every step.
    """

    def __init__(
        self,
        train: Path | None = None,
        val: Path | None = None,
        train_images: Path | None = None,
        val_images: Path | None = None,
        sources: dict[str, Source] = {},  # noqa: B006
        validation: dict[str, ValidationSource] = {},  # noqa: B006
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
        draw_shapes: int = 0,
        draw_clips: int = 0,
        events: Path | None = None,
        seed: int = 0,
        init_from: str | None = None,
        frames: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        self.unreadable = unreadable
        self._unreadable_images = UnreadableImages(unreadable)
        self._base = (
            None
            if init_from is None
            else read_checkpoint(None if init_from == "bundled" else init_from)
        )
        self.preprocessing = preprocessing if self._base is None else self._base.preprocessing
        self.frames = frames if self._base is None else self._base.frames
        self.min_count = min_count
        self.max_length = max_length
        self.captions_per_image = captions_per_image
        self.augmentation = augmentation
        self.views = cache_features
        self.cache_folder = cache_folder
        self.feature_source: FeatureSource | None = None
        self.shapes, self.clips = draw_shapes, draw_clips
        self._events = None if events is None else Path(events), train_images
        if events is not None and not self.frames:
            raise ConfigError(
                "data.events labels clips, and the model is one of photos; set model.temporal."
            )
        for name in ("min_count", "max_length", "captions_per_image", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; expected 1 or more.")
        for name, value in (
            ("workers", workers),
            ("cache_features", cache_features),
            ("draw_shapes", draw_shapes),
            ("draw_clips", draw_clips),
        ):
            if value < 0:
                raise ConfigError(f"data.{name} is {value}; expected 0 or more.")
        for name, share in (("held_out", held_out), ("leave_out", leave_out or 0.5)):
            if not 0 < share < 1:
                raise ConfigError(f"data.{name} is {share}; expected a share between 0 and 1.")
        self.plan = plan_data(
            Source(train and Path(train), train_images, leave_out=leave_out),
            sources,
            ValidationSource(val and Path(val), val_images or train_images),
            validation,
            held_out=held_out,
            unreadable=unreadable,
            seed=seed,
        )

    @classmethod
    def of(cls, trainer: Trainer) -> "CaptionData":
        """The data module that a trainer trains with."""
        data = getattr(trainer, "datamodule", None)  # which Lightning sets, but doesn't declare
        assert isinstance(data, cls)
        return data

    # --- What the splits hold ---

    @cached_property
    def _splits(self) -> tuple[TrainingSplit, list[ValidationSet]]:
        if self.shapes:
            draw_shapes(self.plan.first.parent.parent, self.shapes)
        if self.clips:
            draw_clips(self.plan.first.parent, self.clips)
        training, sets = self.plan.load()
        val = list(chain.from_iterable(each.records for each in sets))
        for warning in find_leaks(training.records, val, self.min_count).warnings():
            logger.warning("%s", warning)
        return training, sets

    @property
    def training(self) -> TrainingSplit:
        """What is trained on."""
        return self._splits[0]

    @property
    def validation_sets(self) -> list[ValidationSet]:
        """What is validated on: the records of the validation split, in its order."""
        return self._splits[1]

    @cached_property
    def records(self) -> dict[Split, list[Record]]:
        """The records of both splits."""
        val = list(chain.from_iterable(each.records for each in self.validation_sets))
        return {"train": self.training.records, "val": val}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the training split, appended to those of the initial checkpoint, if any."""
        brought = compress(self.tokens["train"], self.training.brings_words)
        vocabulary = Vocabulary.build(chain.from_iterable(brought), self.min_count)
        if self._base is not None:
            vocabulary = self._base.vocabulary.extended(vocabulary.words)
        elif len(vocabulary) == len(SPECIAL_WORDS):
            if not any(map(any, self.tokens["train"])):
                raise DataError(
                    "The training captions have no words; emoji and punctuation don't count."
                )
            raise ConfigError(
                f"No word occurs {self.min_count} times in the training captions; lower"
                " data.min_count."
            )
        vocabulary = vocabulary.with_styles(sorted(set(chain.from_iterable(self.training.styles))))
        for images in self.validation_sets:
            vocabulary.start(images.style)  # fail early if there is no such style
        return vocabulary

    @cached_property
    def word_counts(self) -> list[int]:
        """Counts of the words, END and the unknown word in the training split, in id order."""
        counts = Counter(
            word for captions in self.ids["train"] for caption in captions for word in caption[1:]
        )
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
        """The ids of each record's captions, from the start token of their style to END."""
        plain = [[""] * len(captions) for captions in self.tokens["val"]]
        return {
            "train": self._encode(self.tokens["train"], self.training.styles),
            "val": self._encode(self.tokens["val"], plain),
        }

    def _encode(
        self, images: Sequence[Sequence[Sequence[str]]], styles: Sequence[Sequence[str]]
    ) -> list[list[list[int]]]:
        return [
            [
                self.vocabulary.encode(tokens, self.max_length, style)
                for tokens, style in zip(captions, own, strict=True)
            ]
            for captions, own in zip(images, styles, strict=True)
        ]

    @cached_property
    def labels(self) -> EventLabels | None:
        """The events of each record; None where nobody labelled any."""
        table, clips = self._events
        return None if table is None else event_labels(table, clips, self.records, self.frames)

    @property
    def event_config(self) -> EventConfig | None:
        """Which events the model learns to tell."""
        return None if self.labels is None else self.labels.config

    # --- Batches ---

    def train_dataloader(self) -> DataLoader[Example] | StagedLoader:
        """Training batches, shuffled; the loader, and its workers, serve all epochs."""
        batches = self._training_batches(self.training.draws)
        return self._loaders.load(self._dataset("train"), batches)

    def val_dataloader(self) -> DataLoader[Example] | StagedLoader:
        """The validation split, in order."""
        dataset = self._dataset("val")
        return self._loaders.load(dataset, self._validation_batches(len(dataset)))

    def _dataset(self, split: Split) -> CaptionDataset:
        source = self.feature_source
        until = None if source is None else source.until
        frozen = until is None or self._epoch() < until
        return CaptionDataset(
            self.records[split],
            self.ids[split],
            self.preprocessing,
            weights=self.training.weights if split == "train" else None,
            captions_per_image=self.captions_per_image,
            augmentation=self.augmentation if split == "train" else None,
            features=(
                self._features(split, source)
                if self.views and source is not None and frozen
                else None
            ),
            features_until=until,
            substitute=split == "train" and self.unreadable == "skip",
            seed=self.seed,
            frames=self.frames,
            events=None if self.labels is None else self.labels.steps[split],
        )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Report unreadable images.

        Raises:
            DataError: An image cannot be read and `unreadable` is "error", or no image of a
                training batch can be read.
        """
        self._unreadable_images.report(batch.unreadable)
        if self.trainer is not None and self.trainer.training and not len(batch.indices):
            raise DataError(
                f"{self.plan.first}: none of its images can be read; their names are logged above."
            )
        return batch

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Send the images only.

        The decoder's control flow reads the captions: on a GPU, that would synchronise it.
        """
        return batch._replace(images=batch.images.to(device, non_blocking=batch.images.is_pinned()))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert compact images to the network's input: (B, 3, S, S) or (B, L, D), float32."""
        return batch._replace(images=as_input(batch.images, self.preprocessing))

    # --- Features of a frozen encoder ---

    def _features(self, split: Split, source: FeatureSource) -> Features:
        training = split == "train"
        views = ImageViews(
            self.records[split],
            self.preprocessing,
            self.views if training else 1,
            self.augmentation,
            self.seed,
            self.frames,
        )
        return source.compute(
            views, self._image_batches, folder=self.cache_folder, training=training
        )

    def _image_batches(
        self, views: ImageViews, keys: Sequence[Key]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert self.trainer is not None
        for batch in self._loaders.load_views(views, keys, self.batch_size):
            self._unreadable_images.report(batch.unreadable)
            if len(batch.indices):
                pixels = as_input(
                    batch.images.to(self.trainer.strategy.root_device), self.preprocessing
                )
                yield pixels, batch.indices
