"""Parse annotation files: COCO captions JSON, Karpathy's splits, CSV and JSON Lines.

The formats of video data sets are in `clip_formats`.
"""

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from captioner.annotations.clip_formats import (
    is_msrvtt,
    is_msvd,
    is_vatex,
    read_msrvtt,
    read_msvd_csv,
    read_msvd_text,
    read_vatex,
)
from captioner.annotations.entries import (
    Entry,
    add_id,
    get_caption,
    get_id,
    get_seconds,
    get_text,
    invalid_csv,
    parse_json,
    read_json,
)
from captioner.errors import DataError, MissingExtraError

Row = tuple[str, Mapping[Any, Any]]  # its file and line, for messages, and its values

COLUMNS = ("image", "caption")
_CLIP_COLUMNS = ("clip", "caption")  # optionally also start and end
_KNOWN = (*COLUMNS, "clip", "start", "end")
_A = {"image": "an image", "clip": "a clip"}
_SPLITS = {
    "train": "train",
    "restval": "train",
    "val": "val",
    "test": "test",
}  # Karpathy's split names -> ours


def read_coco(path: Path, dataset: Any) -> list[Entry]:
    """Read COCO captions JSON with pycocotools.

    Args:
        path: The file, for messages.
        dataset: The parsed content of the file.

    Returns:
        The images that have captions.

    Raises:
        DataError: The file is malformed or has another format.
        MissingExtraError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise MissingExtraError("Reading COCO annotations", "eval") from error
    _check_coco(path, dataset)
    coco = (
        COCO()
    )  # not COCO(path), which would read the file again, in the system's default encoding
    coco.dataset = {"images": dataset["images"], "annotations": dataset["annotations"]}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco.createIndex()
    ranked = any("rank" in annotation for annotation in dataset["annotations"])
    entries = []
    for image_id, image in coco.imgs.items():
        annotations = coco.imgToAnns.get(image_id, ())
        captions = tuple(annotation["caption"] for annotation in annotations)
        if captions:
            # In a file with ranks, a caption without a rank counts as rank 1.
            ranks = tuple(annotation.get("rank", 1) for annotation in annotations) if ranked else ()
            entries.append(
                Entry(image_id, image["file_name"], captions, ranks, image.get("captions_by", ""))
            )
    return entries


def _check_coco(path: Path, dataset: Any) -> None:
    """Check for errors that pycocotools ignores or reports only as a bare KeyError."""
    if isinstance(dataset, list):
        _refuse_list(path, dataset)
    if not isinstance(dataset, dict) or not all(
        isinstance(dataset.get(k), list) for k in ("images", "annotations")
    ):
        raise DataError(
            f'{path}: expected COCO captions JSON, an object with the lists "images" and'
            ' "annotations", or one of Karpathy\'s files, such as dataset_coco.json'
        )
    file = str(path)  # converted only once: there are hundreds of thousands of entries
    ids: set[int | str] = set()
    for number, image in enumerate(dataset["images"]):
        where = f"{file}, images[{number}]"
        add_id(where, ids, get_id(where, image, "id"), "image")
        get_text(where, image, "file_name")
        if "captions_by" in image:
            get_text(where, image, "captions_by")
    used: set[int | str] = set()
    for number, annotation in enumerate(dataset["annotations"]):
        where = f"{file}, annotations[{number}]"
        image_id = get_id(where, annotation, "image_id")
        if image_id not in ids:
            raise DataError(
                f'{where}: image id {image_id!r} is not in "images"{_other_kind(image_id, ids)}'
            )
        if "caption" not in annotation and ("bbox" in annotation or "category_id" in annotation):
            raise DataError(
                f'{where}: no "caption"; this is an instances file. Use the captions file, such as'
                " captions_train2017.json"
            )
        get_caption(where, annotation, "caption")
        rank = annotation.get("rank", 1)
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise DataError(f'{where}: "rank" is {rank!r}; expected an integer of at least 1')
        add_id(where, used, get_id(where, annotation, "id"), "annotation")


def _refuse_list(path: Path, entries: list[Any]) -> NoReturn:
    if entries and isinstance(entries[0], dict) and {"image_id", "caption"} <= entries[0].keys():
        raise DataError(
            f"{path}: this is a results file (see --results); expected annotations, "
            'an object with the lists "images" and "annotations"'
        )
    raise DataError(
        f"{path}: not COCO captions JSON but a list; expected an object with the lists"
        ' "images" and "annotations", or a .jsonl file with one object per line'
    )


def is_karpathy(dataset: Any) -> bool:
    """Return whether this is one of Karpathy's files: images with `sentences` and `split`."""
    if (
        not isinstance(dataset, dict)
        or "annotations" in dataset
        or not isinstance(dataset.get("images"), list)
    ):
        return False
    first = dataset["images"][0] if dataset["images"] else None
    return isinstance(first, dict) and ("sentences" in first or "split" in first)


def read_karpathy(path: Path, dataset: Any, split: str | None) -> list[Entry]:
    """Read one of Karpathy's splits (Karpathy and Fei-Fei 2015).

    `dataset_coco.json` and similar files have the form `{"images": [{"filename", "split",
    "sentences": [{"raw"}], "imgid"}]}`; COCO's file also has `cocoid` and `filepath` (the image's
    folder). `restval`, COCO validation images that are in neither `val` nor `test`, counts as
    training data.

    Args:
        path: The file, for messages.
        dataset: The parsed content of the file.
        split: "train", "val" or "test".

    Returns:
        The images of the split.

    Raises:
        DataError: The file is malformed, no split was given, or the split has no images.
    """
    file = str(path)
    chosen = []
    sizes: Counter[str] = Counter()
    ids: set[int | str] = set()
    for number, image in enumerate(dataset["images"]):
        where = f"{file}, images[{number}]"
        image_id = get_id(
            where, image, "cocoid" if isinstance(image, dict) and "cocoid" in image else "imgid"
        )
        add_id(where, ids, image_id, "image")
        name = get_text(where, image, "filename")
        if "filepath" in image:
            name = f"{get_text(where, image, 'filepath')}/{name}"
        its_split = _SPLITS.get(get_text(where, image, "split"))
        if its_split is None:
            raise DataError(
                f'{where}: "split" is {image["split"]!r}; expected one of {", ".join(_SPLITS)}'
            )
        sentences = image.get("sentences")
        if not isinstance(sentences, list) or not sentences:
            raise DataError(f'{where}: expected "sentences", a non-empty list')
        captions = tuple(
            get_caption(f"{where}, sentences[{k}]", sentence, "raw")
            for k, sentence in enumerate(sentences)
        )
        sizes[its_split] += 1
        if its_split == split:
            chosen.append(Entry(image_id, name, captions))
    if not chosen:
        held = ", ".join(
            f"{name} ({sizes[name]:,})" for name in dict.fromkeys(_SPLITS.values()) if sizes[name]
        )
        what = "no split given" if split is None else f"no images in split {split!r}"
        raise DataError(
            f"{path}: {what}; expected one of {held}, for example --split {next(iter(sizes))}"
        )
    return chosen


def read_csv(path: Path) -> list[Entry]:
    """Read images or clips from a CSV file.

    Images have the columns `image` and `caption`. Clips have `clip` and `caption`, and optionally
    `start` and `end` in seconds, for captions of a part of a clip.

    Raises:
        DataError: The file is malformed.
    """
    return _gather(csv_rows(path))


def read_json_lines(path: Path) -> list[Entry]:
    """Read images or clips from JSON Lines, one object per line.

    The keys of an object are the columns of `read_csv`.

    Raises:
        DataError: The file is malformed.
    """
    return _gather(json_rows(path))


def csv_rows(path: Path, wanted: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a CSV file; empty rows are skipped.

    Args:
        path: A CSV file in UTF-8.
        wanted: The required columns; None for those of image or clip captions.

    Raises:
        DataError: A column is missing, or the file is not valid CSV.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = 0  # the last line parsed
        try:
            known = wanted or _KNOWN
            columns = _known_names(next(csv.reader([file.readline()]), []), known)
            _check_columns(path, columns, wanted)
            file.seek(0)
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = _known_names(reader.fieldnames or (), known)
            line = 1
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if not any("".join(value or ()).strip() for value in row.values()):
                    continue  # spreadsheets save deleted rows as empty ones: ,,
                if any(row.get(None) or ()):
                    raise DataError(
                        f"{where}: more values than columns; enclose a {_text(wanted)} with commas"
                        " in double quotes"
                    )
                yield where, row
                line = reader.line_num
        except csv.Error as error:
            raise invalid_csv(path, line + 1, error) from error


def _known_names(names: Iterable[str], wanted: Sequence[str] = _KNOWN) -> list[str]:
    """Normalise column names: match the expected ones regardless of case and spaces."""
    names = list(names)
    plain = [name.strip().lower() for name in names]
    return [
        known if known in wanted and known not in names else name
        for name, known in zip(names, plain, strict=True)
    ]


def _check_columns(path: Path, columns: list[str], wanted: Sequence[str] | None) -> None:
    choices = (COLUMNS, _CLIP_COLUMNS) if wanted is None else (wanted,)
    of_clips = wanted is None and "clip" in columns and "image" not in columns
    missing = [column for column in choices[of_clips] if column not in columns]
    if missing:
        message = f"{path}: no column {' and '.join(map(repr, missing))} in its first line"
        for name, delimiter in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
            parts = {part.strip(' "').lower() for part in ",".join(columns).split(delimiter)}
            if any(set(choice) <= parts for choice in choices):
                raise DataError(
                    f"{message}, whose columns are separated by {name}; save the file with commas"
                )
        expected = ",".join(wanted) if wanted else "image,caption or clip,start,end,caption"
        raise DataError(f"{message}; expected {expected} (more columns are allowed)")
    twice = [column for column in wanted or _KNOWN if columns.count(column) > 1]
    if twice:
        raise DataError(f"{path}: duplicate column {twice[0]!r}; write one {_text(wanted)} per row")


def _text(wanted: Sequence[str] | None) -> str:
    """Return the name of the text column, which is the last one."""
    return (wanted or COLUMNS)[-1]


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file; empty lines are skipped.

    Raises:
        DataError: A line is no JSON object.
    """
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                row = parse_json(line, where)
                if not isinstance(row, dict):
                    raise DataError(f"{where}: expected a JSON object")
                yield where, dict(zip(_known_names(row), row.values(), strict=True))


def _gather(rows: Iterable[Row]) -> list[Entry]:
    captions: dict[tuple[str, float | None, float | None], list[str]] = {}
    for where, row in rows:
        key = "clip" if "clip" in row and "image" not in row else "image"
        name = row.get(key)
        if not isinstance(name, str) or not name.strip():
            raise DataError(f'{where}: expected "{key}", the path of {_A[key]}')
        span = _span(where, row) if key == "clip" else (None, None)
        captions.setdefault((name, *span), []).append(get_caption(where, row, "caption"))
    return [
        Entry(_span_id(name, start, end), name, tuple(texts), start=start, end=end)
        for (name, start, end), texts in captions.items()
    ]


def _span(where: str, row: Mapping[Any, Any]) -> tuple[float | None, float | None]:
    """Read the captioned part of a clip: start and end in seconds.

    A start of 0 is the same as none, so that a part has one id however it is written.
    """
    start, end = (get_seconds(where, row, key) for key in ("start", "end"))
    start = start or None
    if end is not None and end <= (start or 0.0):
        raise DataError(f'{where}: "end" is {end:g}; expected seconds, greater than "start"')
    return start, end


def _span_id(name: str, start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return name
    return f"{name}@{_plain(start or 0.0)}-{'' if end is None else _plain(end)}"


def _plain(seconds: float) -> str:
    """Write a number with all of its digits: different parts of a clip have different ids."""
    return repr(seconds).removesuffix(".0")


def _other_kind(image_id: int | str, ids: Iterable[int | str]) -> str:
    """Return a hint if an id was written as "42" instead of 42 or vice versa, else ""."""
    if str(image_id) in map(str, ids):
        return (
            f" (but {'a string' if isinstance(image_id, int) else 'a number'} with the same digits"
            " is)"
        )
    return ""


def _read_any_json(path: Path, split: str | None) -> tuple[list[Entry], bool]:
    dataset = read_json(path)
    if is_karpathy(dataset):
        return read_karpathy(path, dataset, split), True
    if is_msrvtt(dataset):
        return read_msrvtt(path, dataset, split), True
    if is_vatex(dataset):
        return read_vatex(path, dataset), False
    return read_coco(path, dataset), False


def _read_any_csv(path: Path, split: str | None) -> tuple[list[Entry], bool]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        columns = file.readline().replace('"', "").strip().split(",")
    return read_msvd_csv(path, split) if is_msvd(columns) else (read_csv(path), False)


Reader = Callable[[Path, str | None], tuple[list[Entry], bool]]

FORMATS: dict[str, Reader] = {
    ".json": _read_any_json,
    ".csv": _read_any_csv,
    ".jsonl": lambda path, split: (read_json_lines(path), False),
    ".txt": read_msvd_text,
}
"""Readers by file suffix: (path, split) -> entries, and whether the file has splits."""
