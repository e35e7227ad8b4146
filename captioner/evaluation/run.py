"""From annotated images to scores: what `captioner evaluate` and `scripts/evaluate.py` do."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from captioner.data.annotations import Record, Split, check_images, load_records
from captioner.errors import ConfigError, ImageError, MissingExtraError
from captioner.evaluation.report import ImageId, Scores, load_results, save_results, save_scores, score
from captioner.inference import BackendName, Captioner

Pair = tuple[ImageId, str]


def evaluate(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    split: Split | None = None,
    model: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    backend: BackendName = "auto",
    device: str | None = None,
    batch_size: int = 32,
    track: Callable[[Iterable[Pair], int], Iterable[Pair]] | None = None,
    **decoding: Any,
) -> Scores:
    """Caption annotated images and score the captions against the raw references, or score finished results.

    Args:
        annotations: See `captioner.data.annotations.load_records`.
        images: Likewise.
        split: Likewise; for a file that has no splits it is refused.
        model: The checkpoint folder; the bundled model if None.
        results: A file in COCO results format that is scored as it is; no model is run.
        output: A folder for `results.json` and `scores.json`; made if it isn't there.
        backend: See `Captioner.from_pretrained`.
        device: Likewise.
        batch_size: See `Captioner.caption`.
        track: Is given the captions as they come and their number, and passes them on: a progress bar.
        **decoding: See `Captioner.caption`.

    Returns:
        The scores over all images.

    Raises:
        CaptionerError: Something it needs is missing or unusable, be it one image: scores are of all images or none.
    """
    if results is not None and (images is not None or model is not None):
        raise ConfigError("Finished results are scored without a model and its images; name one or the other.")
    if find_spec("nltk") is None:  # better now than after an hour of captioning
        raise MissingExtraError("Scoring", "eval")
    records = load_records(annotations, images, split, strict=True)
    references = {record.image_id: record.captions for record in records}
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    if results is not None:
        captions = load_results(results, references)
    else:
        check_images(records)
        captioner = Captioner.from_pretrained(model, backend=backend, device=device)
        pairs: Iterable[Pair] = caption_records(captioner, records, batch_size=batch_size, **decoding)
        captions = dict(pairs if track is None else track(pairs, len(records)))
    if output is not None:
        save_results(Path(output) / "results.json", cast("dict[int, str] | dict[str, str]", captions))
    scores = score(references, captions)
    if output is not None:
        save_scores(Path(output) / "scores.json", scores)
    return scores


def caption_records(
    captioner: Captioner, records: Sequence[Record], *, batch_size: int = 32, **decoding: Any
) -> Iterator[Pair]:
    """Caption the images of records.

    Args:
        captioner: What captions them.
        records: The images.
        batch_size: See `Captioner.caption`.
        **decoding: Likewise.

    Yields:
        Each record's image id and caption.

    Raises:
        ImageError: An image cannot be read.
    """
    paths = (record.path for record in records)
    with closing(captioner.stream(paths, batch_size=batch_size, **decoding)) as results:
        for record, result in zip(records, results, strict=True):
            if isinstance(result, ImageError):
                raise result
            yield record.image_id, result.text
