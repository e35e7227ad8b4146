"""Annotated photos -> how likely a model's captions are good and its tags right, in its checkpoint.

A caption is good if its own CIDEr-D against people's captions of the photo is at least a threshold.
It is the score that models are compared by, needs no list of words and no grammar, and holds for
any language that captions can be scored in. Its document frequencies are those of the photos that
are calibrated on.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from captioner.annotations.records import Record, Split, check_images, load_records
from captioner.checkpoint import BUNDLED, write_calibration
from captioner.confidence import Calibration, Confidence, SignalReader
from captioner.confidence.config import check_good
from captioner.confidence.fitting import cross_validated, cross_validated_logistic, fit_logistic
from captioner.errors import ConfigError, DataError
from captioner.evaluation.callbacks import Track
from captioner.evaluation.cider import CiderD
from captioner.inference import NO_TAGS, Caption, Captioner, Folder
from captioner.tags import TagConfig, Tagger
from captioner.tags.calibration import fit_tag_temperature
from captioner.tags.matching import NounMatcher
from captioner.tokenizer import tokenize

GOOD = 0.5
LEAST_PHOTOS = 50
LEAST_OF_EACH = 10  # good and other captions, right and wrong tags

Part = Literal["confidence", "tags"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CalibratedConfidence:
    """How the confidence of captions came out.

    Attributes:
        style: The style of the captions.
        calibration: What was fitted to all photos.
        scores: (M,) the own CIDEr-D of each photo's caption, from 0 to 10.
        mean_log_probs: (M,) the mean log-probability of its words.
        probabilities: (M,) its confidence by a fit to other photos.
    """

    style: str
    calibration: Calibration
    scores: Floats
    mean_log_probs: Floats
    probabilities: Floats

    @property
    def good(self) -> Bools:
        """(M,) whether each caption is good."""
        return self.scores >= self.calibration.good


@dataclass(frozen=True, eq=False)
class CalibratedTags:
    """How the temperature of tags came out.

    Attributes:
        config: With the temperature that was fitted to all photos.
        before: (M,) the probability of each photo's likeliest noun at the temperature before.
        right_before: (M,) whether a caption names that noun.
        probabilities: (M,) the same at a temperature that was fitted to other photos.
        right: (M,) likewise.
    """

    config: TagConfig
    before: Floats
    right_before: Bools
    probabilities: Floats
    right: Bools


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a calibration found.

    Attributes:
        photos: M, how many photos there were.
        confidence: Of the captions; None if it was not asked for.
        tags: Of the tags; None if that was not asked for, or the model has none.
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
    """Fit the confidence of a model's captions and the temperature of its tags to photos.

    They must be photos that the model was not trained on. Their captions should be by people.

    Args:
        model: The checkpoint folder; the bundled model if None.
        annotations: See `captioner.annotations.records.load_records`.
        images: Likewise.
        split: Likewise.
        style: The style of captions whose confidence is fitted; that of other styles stays. The
            model's own if None.
        only: Fit only this part, and leave the other as it is.
        good: The own CIDEr-D from which a caption is good.
        backend: See `Captioner.from_pretrained`.
        device: Likewise.
        batch_size: The most photos at once.
        track: Is given what is worked through and how many, and passes it on: a progress bar.
        write: Whether to write the result into the checkpoint's config.json.

    Returns:
        What was found.

    Raises:
        ConfigError: An option is out of range, or the model has no such style or no tags.
        DataError: There are too few photos, images are missing, or nearly all captions are good or
            nearly none.
        ImageError: An image cannot be read.
        CheckpointError: The folder is no checkpoint, or cannot be written.
    """
    check_good(good)
    captioner = Captioner.from_pretrained(model, backend=backend, device=device)
    if only == "tags" and captioner.tags is None:
        raise ConfigError(NO_TAGS)
    style = captioner.decoding.style if style is None else style
    captioner.vocabulary.start(style)  # says now what is no style
    records = load_records(annotations, images, split, strict=True)
    if len(records) < LEAST_PHOTOS:
        raise DataError(
            f"{annotations} has {len(records)} photos; calibrating needs at least {LEAST_PHOTOS},"
            " better hundreds."
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
            BUNDLED if model is None else model,
            tags=None if tags is None else tags.config,
            confidence=(
                None if confidence is None else known.with_style(style, confidence.calibration)
            ),
        )
    return Calibrated(len(records), confidence, tags)


def kept_scores(confidence: Floats, scores: Floats, shares: Sequence[float]) -> list[float]:
    """Score the captions that are left if those of the least confidence are left out.

    Args:
        confidence: (M,) of captions.
        scores: (M,) their own CIDEr-D.
        shares: Which shares are kept, above 0, up to 1.

    Returns:
        For each share the mean of the scores of the most confident captions.
    """
    order = np.argsort(-confidence, kind="stable")
    means = np.cumsum(scores[order]) / np.arange(1, len(scores) + 1)
    return [float(means[max(1, round(share * len(scores))) - 1]) for share in shares]


def _captioned(
    captioner: Captioner, records: Sequence[Record], style: str, batch_size: int
) -> Iterator[tuple[Caption, NDArray[np.float32] | None]]:
    """Each photo's caption, and the scores of its classes."""
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
        is_good, f"captions are good, with a CIDEr-D of at least {good:g}; choose another --good"
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
    named = NounMatcher(table).named_in([record.captions for record in records])

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
    _check_both(right_before, "tags are named by the captions; choose photos of other things")
    right = np.zeros(len(records), np.bool_)
    probabilities = cross_validated(len(records), fit)
    temperature = fit_tag_temperature(table, classes, named)
    return CalibratedTags(
        replace(config, temperature=temperature), before, right_before, probabilities, right
    )


def _check_both(happened: Bools, what: str) -> None:
    count, most = int(happened.sum()), len(happened) - LEAST_OF_EACH
    if not LEAST_OF_EACH <= count <= most:
        raise DataError(
            f"{count} of {len(happened)} {what}, so that it is between {LEAST_OF_EACH} and {most}."
        )
