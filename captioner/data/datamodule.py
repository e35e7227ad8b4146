"""The LightningDataModule: annotation files to batches."""

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
from captioner.tags.table import TagTable
from captioner.tokenizer import tokenize
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary

logger = logging.getLogger(__name__)


class CaptionData(ResumableData):
    """Images with their captions: a training and a validation split.

    A split is a COCO captions JSON (read by pycocotools), Karpathy's `dataset_*.json`, or a CSV or
    JSONL file with the columns `image` and `caption`. An image is read once per epoch for all its
    captions. A run may train on several sources and validate on several sets; `train` and `val` are
    the simple form with one of each.

    Args:
        train: Annotations of the training split; Karpathy's "train" and "restval". Null if all
            training data are in `sources`.
        val: Annotations of the validation split; null holds out some images of `train`.
        train_images: Folder of the training images; null tries the usual folders, see
            `load_records`.
        val_images: Folder of the validation images; null uses `train_images`.
        sources: Named training data, in addition to or instead of `train`.
        validation: Named validation sets, instead of `val`: scores are logged under their names,
            and their weighted mean selects the best model.
        held_out: Share of the images to hold out if there is no validation set; at least two
            images, and the same ones in every run; the parts of a clip together.
        leave_out: Share of the images of `train` to leave out, to test choices on: those that
            `held_out` would choose.
        unreadable: The reaction to a damaged or missing image: "error" fails, "skip" logs and skips
            it.
        preprocessing: Converts images to pixels in training and inference; stored in the
            checkpoint. With `init_from`, the checkpoint's is used.
        min_count: Words that occur fewer times in the training captions become the unknown word.
        tag_words: Keep ImageNet's nouns of one word in the vocabulary, however rare they are in the
            captions, so that a decoder with a pointer can say a noun that it has never read.
        max_length: Maximum length of a training caption in words; longer ones are cut.
        captions_per_image: Maximum number of captions per image in an epoch, sampled by weight.
        batch_size: Images per batch and process.
        workers: Worker processes that load images, per training process; 0 loads in the training
            process.
        augmentation: How training images are varied.
        cache_features: While the encoder is frozen, compute its features once, in this number of
            augmented views, and train on them; 0 encodes images at every step.
        cache_folder: Folder of the feature cache, shared by all data sets. About 0.13 MB per image
            and view for 7x7 regions of width 1280.
        draw_shapes: Draw a data set with this number of images of coloured shapes into the folder
            of `train` if it is missing.
        draw_clips: Draw a data set with this number of clips of coloured shapes into the folder of
            `train` if it is missing; requires the extra `video`.
        events: Table of events in the clips of both splits, with the columns `clip`, `start`, `end`
            in seconds and `label`: the model learns to recognise them. A clip without events has a
            row with empty times and label; clips without any row are not labelled. Paths are
            relative to `train_images`, or to the table's folder. Null for a model without events.
        seed: The random seed of the order of images, their augmentation and the choice of captions.
        init_from: Linked from the model: the checkpoint folder whose words and preprocessing are
            used.
        frames: Linked from the model: the number of frames of each clip; 0 for images. With
            `init_from`, the checkpoint's number is used.

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
        tag_words: bool = False,
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
        self._base = None if init_from is None else read_checkpoint(init_from)
        self.preprocessing = preprocessing if self._base is None else self._base.preprocessing
        if preprocessing not in (Preprocessing(), self.preprocessing):
            logger.warning(
                "data.preprocessing is ignored: the model continues with that of %s (%s)",
                init_from,
                self.preprocessing,
            )
        self.frames = frames if self._base is None else self._base.frames
        self.min_count = min_count
        self.tag_words = tag_words
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
        """Return the data module of a trainer."""
        data = getattr(trainer, "datamodule", None)  # set by Lightning, but not declared
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
        """The training data."""
        return self._splits[0]

    @property
    def validation_sets(self) -> list[ValidationSet]:
        """The validation sets: the records of the validation split, in order."""
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
            if not any(self.training.brings_words):
                raise ConfigError(
                    "No source brings words: set words to true for one, or model.init_from to a"
                    " checkpoint that has them."
                )
            if self.min_count == 1:
                raise ConfigError("The training captions have no words.")
            raise ConfigError(
                f"No word occurs {self.min_count} times in the training captions; lower"
                " data.min_count."
            )
        if self.tag_words:
            nouns = TagTable.imagenet().nouns
            vocabulary = vocabulary.extended(noun for noun in nouns if " " not in noun)
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
        self, tokens: Sequence[Sequence[Sequence[str]]], styles: Sequence[Sequence[str]]
    ) -> list[list[list[int]]]:
        return [
            [
                self.vocabulary.encode(caption, self.max_length, style)
                for caption, style in zip(captions, own, strict=True)
            ]
            for captions, own in zip(tokens, styles, strict=True)
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
        """Return the loader of shuffled training batches; its workers serve all epochs."""
        batches = self._training_batches(self.training.draws)
        return self._loaders.load(self._dataset("train"), batches)

    def val_dataloader(self) -> DataLoader[Example] | StagedLoader:
        """Return the loader of the validation split, in order."""
        dataset = self._dataset("val")
        return self._loaders.load(dataset, self._validation_batches(len(dataset)))

    def _dataset(self, split: Split) -> CaptionDataset:
        source = self.feature_source
        until = None if source is None else source.until
        # With trainer.overfit_batches all epochs have the images of the first one.
        overfits = self.trainer is not None and self.trainer.overfit_batches  # type: ignore[attr-defined]
        frozen = until is None or (not overfits and self._epoch() < until)
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
        """Move only the images to the device.

        The decoder's control flow reads the captions, which would synchronise a GPU.
        """
        return batch._replace(inputs=batch.inputs.to(device, non_blocking=batch.inputs.is_pinned()))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert compact images to the network's input: (B, 3, S, S) or (B, L, D), float32."""
        return batch._replace(inputs=as_input(batch.inputs, self.preprocessing))

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
                    batch.inputs.to(self.trainer.strategy.root_device), self.preprocessing
                )
                yield pixels, batch.indices
