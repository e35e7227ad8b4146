"""Parse annotation files: COCO captions JSON, Karpathy's splits, CSV and JSON Lines.

Those of clips by data sets of their own are read in `clip_formats`.
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
    parse_json,
    read_json,
)
from captioner.errors import DataError, MissingExtraError

Row = tuple[str, Mapping[Any, Any]]  # where it stands, to begin a message with, and what it says

COLUMNS = ("image", "caption")
_CLIP_COLUMNS = ("clip", "caption")  # and start and end, if parts of clips are captioned
_KNOWN = (*COLUMNS, "clip", "start", "end")
_A = {"image": "an image", "clip": "a clip"}
_SPLITS = {
    "train": "train",
    "restval": "train",
    "val": "val",
    "test": "test",
}  # Karpathy's names: what they count as


def read_coco(path: Path, dataset: Any) -> list[Entry]:
    """The images with captions of COCO captions JSON, by pycocotools.

    Args:
        path: The file, for messages.
        dataset: What stands in it.

    Raises:
        DataError: It is something else, or something is wrong in it.
        MissingExtraError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise MissingExtraError("Reading COCO annotations", "eval") from error
    _check_coco(path, dataset)
    coco = (
        COCO()
    )  # not COCO(path): that would read the file again, in whatever encoding the system prefers
    coco.dataset = {"images": dataset["images"], "annotations": dataset["annotations"]}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco.createIndex()
    ranked = any("rank" in annotation for annotation in dataset["annotations"])
    entries = []
    for image_id, image in coco.imgs.items():
        annotations = coco.imgToAnns.get(image_id, ())
        captions = tuple(annotation["caption"] for annotation in annotations)
        if captions:
            # In a file with ranks, a caption without one is as good as a first one.
            ranks = tuple(annotation.get("rank", 1) for annotation in annotations) if ranked else ()
            entries.append(
                Entry(image_id, image["file_name"], captions, ranks, image.get("captions_by", ""))
            )
    return entries


def _check_coco(path: Path, dataset: Any) -> None:
    """Check what pycocotools would silently accept, or report as a bare KeyError."""
    if isinstance(dataset, list):
        _refuse_list(path, dataset)
    if not isinstance(dataset, dict) or not all(
        isinstance(dataset.get(k), list) for k in ("images", "annotations")
    ):
        raise DataError(
            f'{path}: not COCO captions JSON, an object with lists "images" and "annotations", '
            "nor one of Karpathy's files, such as dataset_coco.json"
        )
    file = str(path)  # once: there are hundreds of thousands of entries
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
                f"{where}: image id {image_id!r} is not among the"
                f' "images"{_other_kind(image_id, ids)}'
            )
        if "caption" not in annotation and ("bbox" in annotation or "category_id" in annotation):
            raise DataError(
                f'{where}: no "caption"; this file tells objects in images, and the captions are in'
                " another, which COCO names like captions_train2017.json"
            )
        get_caption(where, annotation, "caption")
        rank = annotation.get("rank", 1)
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise DataError(
                f'{where}: "rank" is {rank!r}; expected a whole number, 1 for the first caption'
            )
        add_id(where, used, get_id(where, annotation, "id"), "annotation")


def _refuse_list(path: Path, entries: list[Any]) -> NoReturn:
    if entries and isinstance(entries[0], dict) and {"image_id", "caption"} <= entries[0].keys():
        raise DataError(
            f"{path}: these are results, such as --results scores; expected annotations, "
            'an object with lists "images" and "annotations"'
        )
    raise DataError(
        f'{path}: not COCO captions JSON but a list; expected an object with lists "images" and'
        ' "annotations", or a .jsonl file with one object a line'
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
    """The images of one of Karpathy's splits (Karpathy and Fei-Fei 2015).

    `dataset_coco.json` and its likes hold `{"images": [{"filename", "split", "sentences":
    [{"raw"}], "imgid"}]}`; that of COCO knows `cocoid` and `filepath`, the folder of the file, too.
    `restval`, the images of COCO's validation half that are in neither `val` nor `test`, is
    training data.

    Args:
        path: The file, for messages.
        dataset: What stands in it.
        split: "train", "val" or "test".

    Raises:
        DataError: Something is wrong in it, no split was named, or the split has no images.
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
            raise DataError(f'{where}: expected "sentences", a list of one or more')
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
        what = "no split was named" if split is None else f"no images of the split {split!r} in it"
        raise DataError(
            f"{path}: {what}; expected one of {held}, for example --split {next(iter(sizes))}"
        )
    return chosen


def read_csv(path: Path) -> list[Entry]:
    """The images of a table with the columns `image` and `caption`, or its clips.

    Of clips it has `clip` and `caption`, and `start` and `end` in seconds where parts of clips are
    captioned.

    Raises:
        DataError: Something is wrong in it.
    """
    return _gather(csv_rows(path))


def read_json_lines(path: Path) -> list[Entry]:
    """The images of a file with an object `{"image", "caption"}` a line, or its clips.

    Of clips an object has `{"clip", "caption"}`, and `start` and `end` as in `read_csv`.

    Raises:
        DataError: Something is wrong in it.
    """
    return _gather(_json_rows(path))


def csv_rows(path: Path, wanted: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a table; those of empty fields are skipped.

    Args:
        path: A CSV file in UTF-8.
        wanted: The columns that it must have; None for those of captions of images or of clips.

    Raises:
        DataError: A column is missing, or it isn't CSV.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = 0  # the last that is understood
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
                    continue  # spreadsheets write rows that were filled once: ,,
                if any(row.get(None) or ()):
                    raise DataError(
                        f"{where}: more values than columns; put a {_text(wanted)} with commas in"
                        " double quotes"
                    )
                yield where, row
                line = reader.line_num
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line + 1}: not CSV ({error}); is a double quote left open?"
            ) from error


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
                    f"{message}, whose columns are divided by {name}; save it with commas"
                )
        expected = ",".join(wanted) if wanted else "image,caption or clip,start,end,caption"
        raise DataError(f"{message}; expected {expected} (and others, if you like)")
    twice = [column for column in wanted or _KNOWN if columns.count(column) > 1]
    if twice:
        raise DataError(
            f"{path}: the column {twice[0]!r} is there twice; write one {_text(wanted)} a row"
        )


def _text(wanted: Sequence[str] | None) -> str:
    """The column that holds the text of a row, which stands last."""
    return (wanted or COLUMNS)[-1]


def _json_rows(path: Path) -> Iterator[Row]:
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
    """Which part of a clip a row is about, in seconds."""
    start, end = (get_seconds(where, row, key) for key in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise DataError(f'{where}: "end" is {end:g}; expected a time after "start", in seconds')
    return start, end


def _span_id(name: str, start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return name
    return f"{name}@{start or 0:g}-{'' if end is None else f'{end:g}'}"


def _other_kind(image_id: int | str, ids: Iterable[int | str]) -> str:
    """A hint where 42 was written as "42" or the other way round."""
    if str(image_id) in map(str, ids):
        return (
            f" (but {'text' if isinstance(image_id, int) else 'a number'} with the same digits is)"
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
