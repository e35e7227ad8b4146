"""From annotated images to scores: what `captioner evaluate` and `scripts/evaluate.py` do."""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from captioner._version import __version__
from captioner.annotations.records import Record, Split, check_images, load_records
from captioner.decoding import DecodingOptions
from captioner.errors import ConfigError, DataError, ImageError
from captioner.evaluation.corpus import Tokens
from captioner.evaluation.groups import read_groups, score_groups
from captioner.evaluation.health import check_health, most_frequent
from captioner.evaluation.html_report import write_page
from captioner.evaluation.report import Evaluation, save_per_image, save_scores
from captioner.evaluation.results import ImageId, load_json, load_results, save_results
from captioner.evaluation.scoring import DEFAULT_METRICS, METRICS, Scored, Track, check_metrics, score_tokens
from captioner.evaluation.statistics import LEVEL, RESAMPLES, SEED, bootstrap, compare, interval
from captioner.inference import BackendName, Captioner, Folder
from captioner.tokenizer import tokenize

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]

_WRITTEN = ("results.json", "scores.json", "per_image.csv", "report.html")


def evaluate(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    split: Split | None = None,
    model: Folder | Sequence[Folder] | None = None,
    results: str | os.PathLike[str] | None = None,
    against: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    allow_missing: bool = False,
    training_captions: str | os.PathLike[str] | None = None,
    instances: str | os.PathLike[str] | None = None,
    backend: BackendName = "auto",
    device: str | None = None,
    batch_size: int = 32,
    track: Track | None = None,
    fail: Tell | None = None,
    **decoding: Any,
) -> Evaluation:
    """Caption annotated images and score the captions against the raw references, or score finished results.

    Args:
        annotations: See `captioner.annotations.records.load_records`.
        images: Likewise.
        split: Likewise; for a file that has no splits it is refused.
        model: See `Captioner.from_pretrained`; the bundled model if None.
        results: A file in COCO results format that is scored as it is; no model is run, and no image is needed.
        against: Another such file, to hold the captions against.
        output: A folder for `results.json`, `scores.json`, `per_image.csv` and `report.html`; made if it isn't there.
        metrics: Names of `captioner.evaluation.scoring.METRICS`.
        allow_missing: Leave out images that have no caption in the results, or cannot be read, instead of refusing.
        training_captions: Annotations of what the system was trained on, to see which captions are new; by default the
            training split of a file that has splits.
        instances: A COCO instances file, for scores by what is in the images.
        backend: See `Captioner.from_pretrained`.
        device: Likewise.
        batch_size: See `Captioner.caption`.
        track: Is given what is worked through, captions and then metrics, and how many, and passes them on: a progress
            bar.
        fail: Is told why METEOR or SPICE cannot be computed here, and all else goes on; without it, that is raised.
        **decoding: See `Captioner.caption`.

    Returns:
        Everything that was found out.

    Raises:
        CaptionerError: Something it needs is missing or unusable.
    """
    check_metrics(metrics)
    folders = [] if model is None else [model] if isinstance(model, (str, os.PathLike)) else list(model)
    if results is not None and (model is not None or decoding):
        named = "model" if model is not None else next(iter(decoding))
        raise ConfigError(f"Finished results are scored as they are, by no model; leave out {named}, or the results.")
    if output is not None:
        _check_output(Path(output), results, [annotations, against, training_captions, instances])
    records = load_records(annotations, images, split, strict=True)
    if split is None:  # Karpathy's files have references of all images
        _warn_of_images_without_references(Path(annotations), len(records))
    image_ids = [record.image_id for record in records]
    # Other files are read before any image is captioned, so that what is wrong with them is told now.
    theirs = None if against is None else load_results(against, image_ids, allow_missing=allow_missing)
    members = None if instances is None else read_groups(instances, image_ids)
    training = _training_records(annotations, split, training_captions)
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"annotations": str(annotations)} | ({"split": split} if split else {})
    if results is not None:
        facts["results"] = str(results)
        captions = load_results(results, image_ids, allow_missing=allow_missing)
    else:
        if not allow_missing:
            check_images(records)
        captioner = Captioner.from_pretrained(model, backend=backend, device=device)
        options = DecodingOptions.from_dict(captioner.decoding.to_dict() | decoding)
        facts |= {"model": ", ".join(map(str, folders)) or "bundled", "decoding": options.to_dict()}
        pairs = caption_records(captioner, records, batch_size=batch_size, skip=allow_missing, **decoding)
        captions = dict(pairs if track is None else track(pairs, len(records)))
        if not captions:
            raise DataError(
                f"None of the {len(records):,} annotated images can be read, so there is nothing to score; "
                "name the folder that image paths start from"
            )
    if output is not None:
        _save_captions(Path(output) / "results.json", captions, results)
    title, other = _names(results, against, folders)
    evaluation = assess(
        records,
        captions,
        title=title,
        metrics=metrics,
        against=None if theirs is None else (other, theirs),
        members=members,
        training=training,
        facts=facts,
        track=track,
        fail=fail,
    )
    if output is not None:
        _save(Path(output), evaluation)
    return evaluation


def assess(
    records: Sequence[Record],
    captions: Mapping[ImageId, str],
    *,
    title: str,
    metrics: Sequence[str] = DEFAULT_METRICS,
    against: tuple[str, Mapping[ImageId, str]] | None = None,
    members: Mapping[str, Collection[ImageId]] | None = None,
    training: Iterable[Record] | None = None,
    facts: Mapping[str, Any] | None = None,
    track: Track | None = None,
    fail: Tell | None = None,
) -> Evaluation:
    """Find out everything about captions of annotated images.

    Args:
        records: The images; those without a caption are left out.
        captions: Captions by image id.
        title: What they are called.
        metrics: As for `evaluate`.
        against: Another system's name and captions; images without one of these are left out too.
        members: The images of each group, as `captioner.evaluation.groups.read_groups` gives them.
        training: What the system was trained on.
        facts: How the captions came about; the facts of the scoring are added.
        track: As for `evaluate`.
        fail: As for `evaluate`.

    Returns:
        Everything, with its arrays in the order of `records`.

    Raises:
        CaptionerError: There is no image to score, or something is missing that a metric needs.
    """
    systems = [captions] if against is None else [captions, against[1]]
    chosen = [record for record in records if all(record.image_id in each for each in systems)]
    if not chosen:
        raise DataError("No annotated image has a caption of each system; expected at least one to score.")
    references = {record.image_id: [tokenize(text) for text in record.captions] for record in chosen}
    tokens = [{image_id: tokenize(each[image_id]) for image_id in references} for each in systems]
    scored = [score_tokens(references, tokens[0], metrics, fail=fail, track=track)]
    if against is not None:
        scored.append(_score_other(against[0], references, tokens[1], scored[0], fail=fail, track=track))
    drawn = bootstrap(scored, len(chosen))
    comparison = None
    if against is not None:
        captioned = sum(record.image_id in captions for record in records)
        comparison = compare(against[0], scored[0], scored[1], drawn, missing=captioned - len(chosen))
    texts = tuple(captions[record.image_id] for record in chosen)
    words = list(tokens[0].values())
    known = None if training is None else {tuple(tokenize(text)) for record in training for text in record.captions}
    return Evaluation(
        scores=scored[0].scores,
        intervals={name: interval(values) for name, values in drawn[0].items()},
        per_image=scored[0].per_image,
        image_ids=tuple(references),
        captions=texts,
        references=tuple(record.captions for record in chosen),
        paths=tuple(record.path if os.path.isfile(record.path) else None for record in chosen),
        health=check_health(words, known),
        groups=() if members is None else score_groups(scored[0], list(references), members),
        comparison=comparison,
        title=title,
        annotated=len(records),
        most_frequent=most_frequent(texts, words),
        facts={
            **(facts or {}),
            "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL},
            "captioner": __version__,
        },
    )


def _score_other(
    name: str,
    references: Mapping[ImageId, Sequence[Tokens]],
    tokens: Mapping[ImageId, Tokens],
    ours: Scored,
    *,
    fail: Tell | None,
    track: Track | None,
) -> Scored:
    """Scores another system by the metrics that could be computed of ours."""
    metrics = [metric for metric, names in METRICS.items() if names[0] in ours.scores]
    if not metrics:
        return Scored({}, {}, None)
    tell = None if fail is None else lambda message: fail(f"{name}: {message}")
    return score_tokens(references, tokens, metrics, fail=tell, track=track)


def caption_records(
    captioner: Captioner, records: Sequence[Record], *, batch_size: int = 32, skip: bool = False, **decoding: Any
) -> Iterator[tuple[ImageId, str]]:
    """Caption the images of records.

    Args:
        captioner: What captions them.
        records: The images.
        batch_size: See `Captioner.caption`.
        skip: Pass over images that cannot be read, with a warning for each.
        **decoding: See `Captioner.caption`.

    Yields:
        Each record's image id and caption.

    Raises:
        ImageError: An image cannot be read.
    """
    paths = (record.path for record in records)
    with closing(captioner.stream(paths, batch_size=batch_size, **decoding)) as results:
        for record, result in zip(records, results, strict=True):
            if not isinstance(result, ImageError):
                yield record.image_id, result.text
            elif skip:
                logger.warning("%s", result)
            else:
                raise result


def _check_output(
    output: Path, results: str | os.PathLike[str] | None, inputs: Sequence[str | os.PathLike[str] | None]
) -> None:
    """Refuses to write over a file that is read; `_save_captions` sees to the results themselves."""
    for name in _WRITTEN:
        path = output / name
        kept = name == "results.json" and results is not None and _same(path, results)
        for given in () if kept else (*inputs, results):
            if given is not None and _same(path, given):
                raise ConfigError(f"The output would overwrite {given}; expected another folder than {output}.")


def _same(path: Path, other: str | os.PathLike[str]) -> bool:
    return path.exists() and os.path.exists(other) and path.samefile(other)


def _warn_of_images_without_references(path: Path, records: int) -> None:
    """COCO's files may list images of which nothing is said; no record is made of them."""
    if path.suffix.lower() != ".json":
        return
    listed = len(load_json(path)["images"])
    if listed > records:
        logger.warning(
            "%s: only %d of its %d images have reference captions; no others are scored", path, records, listed
        )


def _training_records(
    annotations: str | os.PathLike[str], split: Split | None, training_captions: str | os.PathLike[str] | None
) -> list[Record] | None:
    """What the system was trained on, where that is known."""
    if training_captions is not None:
        return load_records(training_captions, split="train")  # of a file that has splits
    return load_records(annotations, split="train") if split in ("val", "test") else None


def _save_captions(path: Path, captions: Mapping[ImageId, str], results: str | os.PathLike[str] | None) -> None:
    """Write them in COCO results format, but not over the file that they are from, which may hold more."""
    if results is None or not _same(path, results):
        save_results(path, cast("dict[int, str] | dict[str, str]", captions))


def _save(folder: Path, evaluation: Evaluation) -> None:
    save_scores(folder / "scores.json", evaluation)
    save_per_image(folder / "per_image.csv", evaluation)
    if evaluation.scores:  # none if all that was asked for needs Java
        write_page(folder / "report.html", evaluation)


def _names(
    results: str | os.PathLike[str] | None, against: str | os.PathLike[str] | None, models: Sequence[Folder]
) -> tuple[str, str]:
    """What the captions and those of the other system are called: by their files' names, if these differ."""
    if results is None:
        ours = " + ".join(Path(model).resolve().name for model in models) or "bundled model"
        return ours, "" if against is None else Path(against).name
    if against is not None and Path(results).name == Path(against).name:
        return str(results), str(against)
    return Path(results).name, "" if against is None else Path(against).name
