"""Calibrate a model's caption confidence and tag probabilities on annotated photos.

A caption is good if its CIDEr-D against the photo's reference captions is at least a threshold.
CIDEr-D is the usual score for comparing models, needs no word lists or grammar, and works for any
language that captions can be scored in. Document frequencies are those of the calibration photos.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from captioner.annotations.records import Record, Split, check_images, load_records
from captioner.checkpoint import write_calibration
from captioner.confidence import Calibration, Confidence, SignalReader
from captioner.confidence.config import check_good
from captioner.confidence.fitting import cross_validated, cross_validated_logistic, fit_logistic
from captioner.errors import ConfigError, DataError
from captioner.evaluation.callbacks import Track
from captioner.evaluation.cider import CiderD
from captioner.hub.download import check_writable
from captioner.inference import NO_TAGS, Caption, Captioner, Folder
from captioner.tags import TagConfig, Tagger
from captioner.tags.calibration import fit_tag_temperature
from captioner.tags.matching import noun_matcher
from captioner.tokenizer import tokenize

GOOD = 0.5
LEAST_PHOTOS = 50
LEAST_OF_EACH = 10  # good captions, other captions, right tags, wrong tags

Part = Literal["confidence", "tags"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CalibratedConfidence:
    """The result of calibrating caption confidence on M photos.

    Attributes:
        style: The style of the captions.
        calibration: The calibration, fitted to all photos.
        scores: (M,) the CIDEr-D of each photo's caption, 0 to 10.
        mean_log_probs: (M,) the mean log-probability of its words.
        probabilities: (M,) its cross-validated confidence, from a fit to other photos.
    """

    style: str
    calibration: Calibration
    scores: Floats
    mean_log_probs: Floats
    probabilities: Floats

    @property
    def good(self) -> Bools:
        """Whether each caption is good (M,)."""
        return self.scores >= self.calibration.good


@dataclass(frozen=True, eq=False)
class CalibratedTags:
    """The result of calibrating the temperature of tags on M photos.

    Attributes:
        config: The tag config with the temperature fitted to all photos.
        before: (M,) the probability of each photo's most probable noun at the old temperature.
        right_before: (M,) whether a reference caption names that noun.
        probabilities: (M,) cross-validated: the same at a temperature fitted to other photos.
        right: (M,) whether a reference caption names that noun.
    """

    config: TagConfig
    before: Floats
    right_before: Bools
    probabilities: Floats
    right: Bools


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The result of a calibration.

    Attributes:
        photos: M, the number of photos.
        confidence: Caption confidence; None if not requested.
        tags: Tag temperature; None if not requested or the model has no tags.
    """

    photos: int
    confidence: CalibratedConfidence | None
    tags: CalibratedTags | None


def calibrate(
    model: Folder | None,
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    split: Split | None = None,
    style: str | None = None,
    only: Part | None = None,
    good: float = GOOD,
    backend: str = "auto",
    device: str | None = None,
    batch_size: int = 32,
    track: Track = lambda items, _: items,
    write: bool = True,
) -> Calibrated:
    """Calibrate the confidence of a model's captions and the temperature of its tags.

    The photos must not be training photos of the model, and their captions should be by people.

    Args:
        model: The checkpoint folder; the bundled model if None.
        annotations: See `captioner.annotations.records.load_records`.
        images: See `captioner.annotations.records.load_records`.
        split: See `captioner.annotations.records.load_records`.
        style: The caption style to calibrate; the calibrations of other styles are kept. The
            model's default style if None.
        only: Calibrate only this part, and keep the other.
        good: The smallest CIDEr-D of a good caption.
        backend: See `Captioner.from_pretrained`.
        device: See `Captioner.from_pretrained`.
        batch_size: The largest batch of photos.
        track: Wraps an iterable, given its length, for example in a progress bar.
        write: Whether to write the result into the checkpoint's config.json.

    Returns:
        The calibrations and the numbers needed to judge them.

    Raises:
        ConfigError: An option is out of range, the model has no such style or no tags, or it is of
            the hub and would be changed.
        DataError: There are too few photos, images are missing, or nearly all or nearly none of the
            captions are good.
        ImageError: An image cannot be read.
        CheckpointError: The folder is not a checkpoint, or cannot be written.
    """
    check_good(good)
    if write and model is not None:
        check_writable(model)
    captioner = Captioner.from_pretrained(model, backend=backend, device=device)
    if only == "tags" and captioner.tags is None:
        raise ConfigError(NO_TAGS)
    style = captioner.decoding.style if style is None else style
    captioner.vocabulary.start(style)  # fails early for an unknown style
    records = load_records(annotations, images, split, strict=True)
    if len(records) < LEAST_PHOTOS:
        raise DataError(
            f"{annotations} has {len(records)} photos; calibration requires at least"
            f" {LEAST_PHOTOS}, preferably hundreds."
        )
    check_images(records)
    found = list(track(_captioned(captioner, records, style, batch_size), len(records)))
    captions = [caption for caption, _ in found]
    classes = None if captioner.tags is None else np.stack([scores for _, scores in found])
    confidence = tags = None
    if only != "tags":
        confidence = _confidence(captioner, records, captions, classes, style, good)
    if only != "confidence" and captioner.tags is not None and classes is not None:
        tags = _tags(captioner.tags, records, classes)
    if write:
        known = captioner.confidence or Confidence({})
        write_calibration(
            model,
            tags=None if tags is None else tags.config,
            confidence=(
                None if confidence is None else known.with_style(style, confidence.calibration)
            ),
        )
    return Calibrated(len(records), confidence, tags)


def kept_scores(confidence: Floats, scores: Floats, shares: Sequence[float]) -> list[float]:
    """Compute the mean score of the most confident captions, for several shares kept.

    Args:
        confidence: (M,) the confidence of each caption.
        scores: (M,) the CIDEr-D of each caption.
        shares: The shares of captions to keep, above 0, up to 1.

    Returns:
        For each share the mean score of the captions kept.
    """
    order = np.argsort(-confidence, kind="stable")
    means = np.cumsum(scores[order]) / np.arange(1, len(scores) + 1)
    return [float(means[max(1, round(share * len(scores))) - 1]) for share in shares]


def _captioned(
    captioner: Captioner, records: Sequence[Record], style: str, batch_size: int
) -> Iterator[tuple[Caption, NDArray[np.float32] | None]]:
    """Yield each photo's caption and class logits."""
    sources: list[Any] = [record.clip if captioner.frames else record.path for record in records]
    for stepper in captioner.encode(sources, batch_size=batch_size):
        captions = captioner.decode(stepper, style=style, alternatives=1, sample=False)
        classes = [None] * len(captions) if stepper.classes is None else list(stepper.classes)
        yield from zip(captions, classes, strict=True)


def _confidence(
    captioner: Captioner,
    records: Sequence[Record],
    captions: Sequence[Caption],
    classes: NDArray[np.float32] | None,
    style: str,
    good: float,
) -> CalibratedConfidence:
    references = {
        record.image_id: [tokenize(text) for text in record.captions] for record in records
    }
    said = {
        record.image_id: tokenize(caption.text)
        for record, caption in zip(records, captions, strict=True)
    }
    _, scores = CiderD(references).score(said)
    is_good = scores >= good
    _check_both(
        is_good,
        f"captions are good, with a CIDEr-D of at least {good:g}; choose another --good",
        "tags",
    )
    reader = SignalReader(captioner.tags)
    signals = reader.read(
        [caption.text for caption in captions],
        [caption.word_log_probs for caption in captions],
        classes,
    )
    bias, weights = fit_logistic(signals, is_good)
    calibration = Calibration(
        good, len(records), bias, dict(zip(reader.names, weights.tolist(), strict=True))
    )
    return CalibratedConfidence(
        style, calibration, scores, signals[:, 0], cross_validated_logistic(signals, is_good)
    )


def _tags(
    config: TagConfig, records: Sequence[Record], classes: NDArray[np.float32]
) -> CalibratedTags:
    table = config.tagger.table
    named = noun_matcher(table).named_in([record.captions for record in records])

    def best(temperature: float, rows: NDArray[np.intp]) -> tuple[Floats, Bools]:
        nouns, probabilities = Tagger(table, temperature).best(classes[rows])
        return probabilities, named[rows, nouns]

    def fit(kept: NDArray[np.intp]) -> Callable[[NDArray[np.intp]], Floats]:
        temperature = fit_tag_temperature(table, classes[kept], named[kept])

        def probabilities(rows: NDArray[np.intp]) -> Floats:
            found, right[rows] = best(temperature, rows)
            return found

        return probabilities

    everything = np.arange(len(records))
    before, right_before = best(config.temperature, everything)
    _check_both(
        right_before,
        "tags are named by the captions; choose photos of other things",
        "confidence",
    )
    right = np.zeros(len(records), np.bool_)
    probabilities = cross_validated(len(records), fit)
    temperature = fit_tag_temperature(table, classes, named)
    return CalibratedTags(
        replace(config, temperature=temperature), before, right_before, probabilities, right
    )


def _check_both(happened: Bools, what: str, other: Part) -> None:
    count, most = int(happened.sum()), len(happened) - LEAST_OF_EACH
    if not LEAST_OF_EACH <= count <= most:
        raise DataError(
            f"{count} of {len(happened)} {what}, so that it is between {LEAST_OF_EACH} and {most},"
            f" or calibrate the other part alone (--only {other})."
        )
