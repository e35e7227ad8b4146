"""Write the files of an evaluation: results.json, scores.json, per_image.csv, report.html."""

import csv
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

from captioner.errors import ConfigError
from captioner.evaluation.findings import Evaluation
from captioner.evaluation.html_report import write_page
from captioner.evaluation.results import ImageId, save_results
from captioner.files import replacing
from captioner.library.tables import escape_formula

logger = logging.getLogger(__name__)

_WRITTEN = ("results.json", "scores.json", "per_image.csv", "report.html")


def check_output(
    output: Path,
    results: str | os.PathLike[str] | None,
    inputs: Sequence[str | os.PathLike[str] | None],
) -> None:
    """Check that no output file would overwrite an input.

    The results file may be in the output folder: see `saved_captions`.

    Args:
        output: The output folder.
        results: The results file that is scored, if any.
        inputs: The other input files.

    Raises:
        ConfigError: An output file would overwrite an input file.
    """
    for name in _WRITTEN:
        path = output / name
        kept = name == "results.json" and results is not None and _same(path, results)
        for given in () if kept else (*inputs, results):
            if given is not None and _same(path, given):
                raise ConfigError(
                    f"The output would overwrite {given}; choose another folder than {output}."
                )


@contextmanager
def saved_captions(
    folder: Path, captions: Mapping[ImageId, str], results: str | os.PathLike[str] | None
) -> Iterator[None]:
    """Write captions in COCO results format; never overwrite the results file they come from.

    They are written before scoring. Captions of an earlier evaluation are replaced only once this
    one has succeeded; if it fails, the new ones are kept next to them.
    """
    target = folder / "results.json"
    if results is not None and _same(target, results):
        yield
        return
    path = folder / "results.new.json" if target.exists() else target
    save_results(path, cast("dict[int, str] | dict[str, str]", captions))
    try:
        yield
    except BaseException:
        if path != target:
            logger.warning(
                "The new captions are in %s; %s is from an earlier evaluation.", path, target
            )
        raise
    if path != target:
        path.replace(target)


def save_all(folder: Path, evaluation: Evaluation) -> None:
    """Write all files but the captions atomically; without scores, no report."""
    with (
        replacing(folder / "scores.json") as scores,
        replacing(folder / "per_image.csv") as table,
        replacing(folder / "report.html") if evaluation.scores else nullcontext() as page,
    ):
        save_scores(scores, evaluation)
        save_per_image(table, evaluation)
        if page is not None:
            write_page(page, evaluation)


def save_scores(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write `Evaluation.to_dict` as JSON, in full precision; NaN becomes null."""
    text = json.dumps(
        _without_nan(evaluation.to_dict()), indent=2, ensure_ascii=False, allow_nan=False
    )
    # Lone surrogates, from undecodable bytes of a file name, are written as JSON escapes.
    Path(path).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _without_nan(value: Any) -> Any:
    """Replace nan, which JSON doesn't have, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def save_per_image(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write a CSV table with one row per image: id, file, caption, scores.

    Text that a spreadsheet would read as a formula is escaped, as `captioner caption` does.
    """
    ids = [escape_formula(name) if isinstance(name, str) else name for name in evaluation.image_ids]
    files = ["" if file is None else escape_formula(str(file)) for file in evaluation.paths]
    captions = map(escape_formula, evaluation.captions)
    columns = [values.tolist() for values in evaluation.per_image.values()]
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_id", "file", "caption", *evaluation.per_image])
        table.writerows(zip(ids, files, captions, *columns, strict=True))


def _same(path: Path, other: str | os.PathLike[str]) -> bool:
    return path.exists() and os.path.exists(other) and path.samefile(other)
