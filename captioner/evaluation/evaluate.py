"""Caption and score annotated images: the implementation of `captioner evaluate`."""

import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from captioner.annotations.records import Record, Split, load_records
from captioner.errors import ConfigError, DataError
from captioner.evaluation.assess import Background, System, assess
from captioner.evaluation.callbacks import Callbacks
from captioner.evaluation.captioning import Captioning, caption_all
from captioner.evaluation.findings import Evaluation
from captioner.evaluation.groups import read_groups, read_objects
from captioner.evaluation.metric import check_instances
from captioner.evaluation.metrics import DEFAULT_METRICS, check_metrics, find_metric
from captioner.evaluation.output import check_output, save_all, saved_captions
from captioner.evaluation.results import load_captions, load_json
from captioner.inference import Folder

logger = logging.getLogger(__name__)

File: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Scoring:
    """How to score captions.

    Attributes:
        metrics: Names of metrics in `captioner.evaluation.metrics.METRICS`.
        against: A results file of another system to compare with.
        allow_missing: Skip images that have no caption in the results or cannot be read, instead of
            failing.
        training_captions: Annotations that the system was trained on, to count novel captions; by
            default the training split of a file with splits.
        instances: A COCO instances file, for scores by object category and for CHAIR.
    """

    metrics: Sequence[str] = DEFAULT_METRICS
    against: File | None = None
    allow_missing: bool = False
    training_captions: File | None = None
    instances: File | None = None


def evaluate(
    annotations: File,
    images: File | None = None,
    *,
    split: Split | None = None,
    captioning: Captioning | None = None,
    results: File | None = None,
    output: File | None = None,
    scoring: Scoring | None = None,
    callbacks: Callbacks | None = None,
) -> Evaluation:
    """Caption annotated images and score the captions, or score a results file.

        evaluate("captions_val.json", "val/")
        evaluate("captions_val.json", results="ours.json", scoring=Scoring(against="theirs.json"))

    Args:
        annotations: See `captioner.annotations.records.load_records`.
        images: See `captioner.annotations.records.load_records`.
        split: See `captioner.annotations.records.load_records`; an error for a file without splits.
        captioning: The model and its options; the bundled model if None.
        results: Captions to score, see `captioner.evaluation.results.load_captions`; no model is
            run, and images are not needed.
        output: A folder for `results.json`, `scores.json`, `per_image.csv` and `report.html`;
            created if missing.
        scoring: How to score; by BLEU, ROUGE-L and CIDEr-D if None.
        callbacks: Called with progress and failures.

    Returns:
        Scores, intervals and everything else that the report shows.

    Raises:
        CaptionerError: An input is missing or unusable.
    """
    scoring, callbacks = scoring or Scoring(), callbacks or Callbacks()
    check_metrics(scoring.metrics)
    metrics = [find_metric(name) for name in scoring.metrics]
    for metric in metrics:
        check_instances(metric, scoring.instances is not None)
    if results is not None and captioning is not None:
        raise ConfigError(
            "results and captioning cannot be combined: a results file is scored without running a"
            " model. Leave out one of them."
        )
    captioning = captioning or Captioning()
    if output is not None:
        read = [annotations, scoring.against, scoring.training_captions, scoring.instances]
        check_output(Path(output), results, read)
    records = load_records(annotations, images, split, strict=True)
    if split is None:  # Karpathy's files have references of all images
        _warn_of_images_without_references(Path(annotations), len(records))
    title, other = _names(results, scoring.against, captioning.folders)
    # Read all other files before captioning, so that errors in them are reported early.
    theirs = _read_other(other, records, scoring)
    members = (
        None if scoring.instances is None else read_groups(scoring.instances, _image_ids(records))
    )
    objects = (
        read_objects(scoring.instances, _image_ids(records))
        if scoring.instances is not None and any("instances" in each.needs for each in metrics)
        else None
    )
    training = _training_records(annotations, split, scoring.training_captions)
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    facts: dict[str, object] = {"annotations": str(annotations)}
    if split is not None:
        facts["split"] = split
    if results is not None:
        captions = load_captions(results, records, allow_missing=scoring.allow_missing)
        facts["results"] = str(results)
    else:
        captions, more = caption_all(
            records, captioning, skip=scoring.allow_missing, track=callbacks.track
        )
        facts |= more
    background = Background(members, training, facts, objects)
    ours = System(title, captions)
    with nullcontext() if output is None else saved_captions(Path(output), captions, results):
        evaluation = assess(
            records,
            ours,
            theirs,
            metrics=scoring.metrics,
            background=background,
            callbacks=callbacks,
        )
        if output is not None:
            save_all(Path(output), evaluation)
    return evaluation


def _warn_of_images_without_references(path: Path, records: int) -> None:
    """Warn if a COCO file lists images without captions, which are not scored."""
    dataset = load_json(path) if path.suffix.lower() == ".json" else None
    if not isinstance(dataset, dict):  # VATEX's file is a list of clips with captions
        return
    listed = len(dataset["images"])
    if listed > records:
        logger.warning(
            "%s: only %d of %d images have reference captions; the others are not scored",
            path,
            records,
            listed,
        )


def _training_records(
    annotations: File, split: Split | None, training_captions: File | None
) -> list[Record] | None:
    """Return the records that the system was trained on; None if unknown."""
    if training_captions is not None:
        return load_records(training_captions, split="train")  # all of a file without splits
    if split not in ("val", "test"):
        return None
    try:
        return load_records(annotations, split="train")
    except DataError:  # a file of the other splits alone; the rest of it was read without an error
        return None


def _image_ids(records: Sequence[Record]) -> list[int | str]:
    return [record.image_id for record in records]


def _read_other(name: str, records: Sequence[Record], scoring: Scoring) -> System | None:
    """Read the system to compare with; None if there is none."""
    if scoring.against is None:
        return None
    return System(
        name,
        load_captions(scoring.against, records, allow_missing=scoring.allow_missing),
    )


def _names(results: File | None, against: File | None, models: Sequence[Folder]) -> tuple[str, str]:
    """Name the two systems after their files; by their paths if the file names are equal."""
    if results is None:
        ours = " + ".join(Path(model).resolve().name for model in models) or "bundled model"
        return ours, "" if against is None else Path(against).name
    if against is not None and Path(results).name == Path(against).name:
        return str(results), str(against)
    return Path(results).name, "" if against is None else Path(against).name
