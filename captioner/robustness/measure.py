"""Scores under damages: caption each photo intact and damaged, and compare the scores."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.caption import Caption
from captioner.errors import ConfigError, DataError
from captioner.evaluation.callbacks import Track
from captioner.evaluation.corpus import Corpus
from captioner.evaluation.results import ImageId
from captioner.evaluation.scoring import Scored, score_corpus
from captioner.evaluation.statistics import bootstrap, interval
from captioner.images import open_image
from captioner.inference import Captioner
from captioner.robustness.damages import SIDE, damage, fit, severities_of

MAIN = "CIDEr-D"  # the score whose drop is reported
WHOLE = "none"  # the name of the intact condition
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Condition:
    """A set of photos that all have the same damage.

    Attributes:
        damage: The damage; `WHOLE` for none.
        severity: Its severity; 0 for none.
        captions: The N captions.
        confidence: The mean confidence; None if the model provides none.
        scored: The scores.
    """

    damage: str
    severity: int
    captions: tuple[str, ...]
    confidence: float | None
    scored: Scored

    @property
    def score(self) -> float:
        """CIDEr-D of all photos."""
        return self.scored.scores[MAIN]

    @property
    def per_photo(self) -> NDArray[np.float64]:
        """CIDEr-D of each photo (N,)."""
        return self.scored.per_image[MAIN]

    def to_dict(self, whole: "Condition") -> dict[str, object]:
        """Return the scores, the share of unchanged captions, and the mean confidence."""
        same = [ours == theirs for ours, theirs in zip(self.captions, whole.captions, strict=True)]
        return {**self.scored.scores, "unchanged": mean(same), "confidence": self.confidence}


@dataclass(frozen=True)
class Drop:
    """The relative loss of a score compared with intact photos: 0.25 is a quarter.

    Attributes:
        value: The mean over severities; below 0 for a gain, nan if intact photos score 0.
        interval: The 95 % interval from bootstrapping over photos.
    """

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Robustness:
    """The result of a measurement.

    Attributes:
        photos: The N photos by image id.
        references: Their references.
        own: Whether the references are the model's captions of the intact photos.
        whole: The photos without damage.
        damaged: The photos under each damage and severity, in order.
        seed: The random seed of the damages.
    """

    photos: Mapping[ImageId, Path]
    references: Mapping[ImageId, Sequence[str]]
    own: bool
    whole: Condition
    damaged: tuple[Condition, ...]
    seed: int

    @property
    def damages(self) -> tuple[str, ...]:
        """The damages, in order."""
        return tuple(dict.fromkeys(condition.damage for condition in self.damaged))

    def of(self, name: str) -> list[Condition]:
        """Return the conditions of a damage, by severity."""
        return [condition for condition in self.damaged if condition.damage == name]

    @cached_property
    def drops(self) -> dict[str, Drop]:
        """The drop of CIDEr-D under each damage."""
        return {name: self._drop(name) for name in self.damages}

    @cached_property
    def mean_drop(self) -> Drop:
        """The mean drop over damages, with equal weights."""
        return self._drop(*self.damages)

    @cached_property
    def _drawn(self) -> dict[tuple[str, int], NDArray[np.float64]]:
        """CIDEr-D of each condition on the same draws of photos, (R,) each."""
        conditions = [self.whole, *self.damaged]
        scored = [Scored({"cider": each.scored.measured["cider"]}) for each in conditions]
        drawn = bootstrap(scored, len(self.photos), RESAMPLES)
        keys = [(each.damage, each.severity) for each in conditions]
        return {key: scores[MAIN] for key, scores in zip(keys, drawn, strict=True)}

    def _drop(self, *names: str) -> Drop:
        if self.whole.score == 0:
            return Drop(math.nan, (math.nan, math.nan))
        value = mean(
            1 - mean(each.score for each in self.of(name)) / self.whole.score for name in names
        )
        whole = np.maximum(self._drawn[WHOLE, 0], 1e-9)  # a draw may have no match
        drops = [
            1
            - np.mean([self._drawn[name, each.severity] for each in self.of(name)], axis=0) / whole
            for name in names
        ]
        return Drop(value, interval(np.mean(drops, axis=0)))

    def to_dict(self) -> dict[str, object]:
        """Return all results by name, for JSON."""
        return {
            "photos": len(self.photos),
            "shorter side": SIDE,
            "seed": self.seed,
            "references": "captions of the whole photos" if self.own else "annotations",
            "whole": self.whole.to_dict(self.whole),
            "damages": {
                name: {
                    "severities": {
                        str(each.severity): each.to_dict(self.whole) for each in self.of(name)
                    },
                    **_drop_dict(self.drops[name]),
                }
                for name in self.damages
            },
            "mean": _drop_dict(self.mean_drop),
        }


def _drop_dict(drop: Drop) -> dict[str, object]:
    known = not math.isnan(drop.value)
    return {
        "relative drop": drop.value if known else None,
        "interval": drop.interval if known else None,
    }


def measure(
    captioner: Captioner,
    photos: Mapping[ImageId, Path],
    references: Mapping[ImageId, Sequence[str]] | None,
    damages: Sequence[str],
    severities: Sequence[int],
    *,
    seed: int = 0,
    batch_size: int = 32,
    track: Track = lambda items, _: items,
) -> Robustness:
    """Caption photos intact and under each damage, and score the captions.

    Args:
        captioner: The model.
        photos: The photos by image id; two or more.
        references: The references of each photo; None compares the captions with the model's
            captions of the intact photos.
        damages: Names of `captioner.robustness.damages.DAMAGES`.
        severities: Some of 1 to 5; severities that a damage lacks are skipped.
        seed: The random seed.
        batch_size: See `Captioner.caption`.
        track: See `captioner.evaluation.callbacks.Callbacks`.

    Raises:
        ConfigError: There is no damage, or a damage has none of the severities.
        DataError: There are fewer than two photos.
        ImageError: A photo cannot be read.
    """
    if len(photos) < 2:
        raise DataError(f"{len(photos)} photos; expected two or more, which CIDEr-D requires.")
    cases = [
        (name, severity)
        for name in damages
        for severity in severities_of(name)
        if severity in severities
    ]
    for name in damages:
        if name not in [case[0] for case in cases]:
            raise ConfigError(
                f"{name} has none of the severities {', '.join(map(str, severities))}; expected"
                f" some of {', '.join(map(str, severities_of(name)))}."
            )
    if not cases:
        raise ConfigError("No damages given; expected one or more.")
    whole = captioner.caption(_shown(photos, WHOLE, 0, seed), batch_size=batch_size)
    own = references is None
    if references is None:
        references = {name: [caption.text] for name, caption in zip(photos, whole, strict=True)}
    corpus = Corpus(
        {name: references[name] for name in photos}, dict.fromkeys(photos, ""), dict(photos)
    )
    found = []
    for name, severity in track(cases, len(cases)):
        captions = captioner.caption(_shown(photos, name, severity, seed), batch_size=batch_size)
        found.append(_condition(name, severity, captions, corpus))
    return Robustness(
        photos, corpus.references, own, _condition(WHOLE, 0, whole, corpus), tuple(found), seed
    )


def shown(path: Path, image_id: ImageId, name: str, severity: int, seed: int) -> Image.Image:
    """Open a photo as it is captioned: scaled to a fixed size, then damaged.

    Args:
        path: Its file.
        image_id: Its identity.
        name: The damage, or `WHOLE`.
        severity: Its severity.
        seed: The random seed.

    Raises:
        ImageError: The photo cannot be read.
    """
    image = fit(open_image(path, min_size=SIDE))
    return image if name == WHOLE else damage(image, name, severity, key=str(image_id), seed=seed)


def _shown(
    photos: Mapping[ImageId, Path], name: str, severity: int, seed: int
) -> Iterator[Image.Image]:
    for image_id, path in photos.items():
        yield shown(path, image_id, name, severity, seed)


def _condition(name: str, severity: int, captions: Sequence[Caption], corpus: Corpus) -> Condition:
    texts = tuple(caption.text for caption in captions)
    sure = [caption.confidence for caption in captions if caption.confidence is not None]
    scored = score_corpus(corpus.with_captions(dict(zip(corpus.references, texts, strict=True))))
    return Condition(name, severity, texts, mean(sure) if sure else None, scored)
