"""Evaluate captions of annotated images: scores, health, groups, comparison."""

import os
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from captioner._version import __version__
from captioner.annotations.records import Record
from captioner.errors import DataError
from captioner.evaluation.callbacks import Callbacks
from captioner.evaluation.corpus import Corpus
from captioner.evaluation.findings import Evaluation
from captioner.evaluation.groups import score_groups
from captioner.evaluation.health import check_health, most_frequent
from captioner.evaluation.metrics import DEFAULT_METRICS
from captioner.evaluation.results import ImageId
from captioner.evaluation.scoring import Scored, score_corpus
from captioner.evaluation.statistics import LEVEL, RESAMPLES, SEED, bootstrap, compare, interval
from captioner.tokenizer import tokenize

Id = TypeVar("Id", bound=Hashable)


@dataclass(frozen=True)
class System:
    """A captioning system.

    Attributes:
        name: Its name: that of a results file or of a model.
        captions: Captions by image id.
    """

    name: str
    captions: Mapping[ImageId, str]


@dataclass(frozen=True)
class Background:
    """Optional inputs of an evaluation, besides captions and references.

    Attributes:
        members: The images of each group, from `captioner.evaluation.groups.read_groups`.
        training: The records that the system was trained on.
        facts: How the captions were made; facts about the scoring are added.
        objects: The object categories in each image, from
            `captioner.evaluation.groups.read_objects`.
    """

    members: Mapping[str, Collection[ImageId]] | None = None
    training: Iterable[Record] | None = None
    facts: Mapping[str, object] | None = None
    objects: Mapping[ImageId, Collection[str]] | None = None


def score(references: Mapping[Id, Sequence[str]], captions: Mapping[Id, str]) -> Evaluation:
    """Score captions by BLEU, ROUGE-L and CIDEr-D.

    Args:
        references: One or more raw reference captions for each image; tokenised here.
        captions: The caption to score for each image.

    Returns:
        Scores of the corpus and of each image, in the order of `references`.

    Raises:
        DataError: The image ids of captions and references differ, there are no images, or an image
            has no references.
    """
    scored = score_corpus(Corpus(references, captions))
    return Evaluation(
        scores=scored.scores,
        intervals={},
        per_image=scored.per_image,
        image_ids=tuple(references),  # type: ignore[arg-type]
        captions=tuple(captions[image_id] for image_id in references),
        references=tuple(tuple(texts) for texts in references.values()),
        paths=(None,) * len(references),
        health={},
        groups=(),
        comparison=None,
        title="captions",
        annotated=len(references),
    )


def assess(
    records: Sequence[Record],
    ours: System,
    theirs: System | None = None,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    background: Background | None = None,
    callbacks: Callbacks | None = None,
) -> Evaluation:
    """Evaluate captions of annotated images.

    Args:
        records: The images; those without a caption are left out.
        ours: The system to evaluate.
        theirs: A system to compare it with; images that it has no caption of are left out too.
        metrics: Names of metrics in `captioner.evaluation.metrics.METRICS`.
        background: Optional inputs.
        callbacks: Called with progress and failures.

    Returns:
        The evaluation, with arrays in the order of `records`.

    Raises:
        CaptionerError: There are no images to score, or a metric's requirements are missing.
    """
    background, callbacks = background or Background(), callbacks or Callbacks()
    systems = [ours] if theirs is None else [ours, theirs]
    chosen = [
        record for record in records if all(record.image_id in each.captions for each in systems)
    ]
    if not chosen:
        raise DataError(
            "No annotated image has a caption by every system; expected at least one to score."
        )
    corpus = _corpus(chosen, ours, background.objects)
    scored = [score_corpus(corpus, metrics, callbacks)]
    if theirs is not None:
        scored.append(_score_other(theirs, corpus, scored[0], callbacks))
    drawn = bootstrap(scored, len(chosen))
    comparison = None
    if theirs is not None:
        captioned = sum(record.image_id in ours.captions for record in records)
        comparison = compare(
            theirs.name, scored[0], scored[1], drawn, missing=captioned - len(chosen)
        )
    texts, words = tuple(corpus.captions.values()), list(corpus.caption_tokens.values())
    members = background.members
    return Evaluation(
        scores=scored[0].scores,
        intervals={name: interval(values) for name, values in drawn[0].items()},
        per_image=scored[0].per_image,
        image_ids=tuple(corpus.references),
        captions=texts,
        references=tuple(record.captions for record in chosen),
        paths=tuple(corpus.paths.values()),
        health=check_health(words, _known(background.training)),
        groups=() if members is None else score_groups(scored[0], list(corpus.references), members),
        comparison=comparison,
        title=ours.name,
        annotated=len(records),
        most_frequent=most_frequent(texts, words),
        facts={
            **(background.facts or {}),
            "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL},
            "captioner": __version__,
        },
    )


def _corpus(
    records: Sequence[Record],
    system: System,
    objects: Mapping[ImageId, Collection[str]] | None,
) -> Corpus:
    return Corpus(
        {record.image_id: record.captions for record in records},
        {record.image_id: system.captions[record.image_id] for record in records},
        {
            record.image_id: record.path if os.path.isfile(record.path) else None
            for record in records
        },
        objects,
    )


def _score_other(system: System, corpus: Corpus, ours: Scored, callbacks: Callbacks) -> Scored:
    """Score the other system by the metrics that could be computed for ours."""
    if not ours.measured:
        return Scored({})
    captions = {image_id: system.captions[image_id] for image_id in corpus.references}
    return score_corpus(
        corpus.with_captions(captions), list(ours.measured), callbacks.about(system.name)
    )


def _known(training: Iterable[Record] | None) -> set[tuple[str, ...]] | None:
    """Tokenise the captions that a system was trained on."""
    if training is None:
        return None
    return {tuple(tokenize(text)) for record in training for text in record.captions}
