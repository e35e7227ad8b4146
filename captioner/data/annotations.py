"""Annotation files to records: COCO captions JSON, and CSV or JSON lines for one's own photos."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.errors import DataError, MissingExtraError

_COLUMNS = ("image", "caption")
_SUFFIXES = (".json", ".csv", ".jsonl")


@dataclass(frozen=True)
class Record:
    """An image with its reference captions.

    Attributes:
        image_id: As the annotations name the image: COCO's number or string; for CSV and JSON lines the text of the
            `image` column.
        path: Where the image should be; not checked (see `check_images`).
        captions: One or more captions, raw, in the order of the file.
    """

    image_id: int | str
    path: Path
    captions: tuple[str, ...]


def load_records(annotations: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> list[Record]:
    """Reads an annotation file; its suffix says which kind it is.

    `.json` is COCO captions JSON: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`, read
    with pycocotools. `.csv` (with a header) and `.jsonl` (an object a line) have `image` and `caption`; several rows
    of an image are gathered, other columns are passed over.

    Args:
        annotations: The annotation file, in UTF-8.
        images: The folder that image paths start from; the annotation file's own folder if not given.

    Returns:
        One record for each image that has captions, in the order of the file.

    Raises:
        DataError: The file cannot be read or used; the message says where it is wrong.
        MissingExtraError: For COCO JSON without pycocotools.
    """
    path = Path(annotations)
    folder = path.parent if images is None else Path(images)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"{path}: annotations must be a .json (COCO captions), .csv or .jsonl file")
    try:
        if suffix == ".json":
            records = _read_coco(path, folder)
        else:
            rows = _read_csv(path) if suffix == ".csv" else _read_json_lines(path)
            records = _gather(path, rows, folder)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not records:
        raise DataError(f"{path}: no captions in it; expected at least one image with a caption")
    return records


def check_images(records: Iterable[Record]) -> None:
    """Makes sure that the image file of every record exists.

    Raises:
        DataError: Some are missing; the message names the first few.
    """
    paths = [record.path for record in records]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        named = ", ".join(str(path) for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{len(missing)} of {len(paths)} images are missing: {named}; check the images folder that was given"
        )


def _read_coco(path: Path, folder: Path) -> list[Record]:
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise MissingExtraError("Reading COCO annotations", "eval") from error
    dataset = _read_json(path)
    _check_coco(path, dataset)
    coco = COCO()  # not COCO(path): that would read the file again, in whatever encoding the system prefers
    coco.dataset = {"images": dataset["images"], "annotations": dataset["annotations"]}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco.createIndex()
    records = []
    for image_id, image in coco.imgs.items():
        captions = tuple(annotation["caption"] for annotation in coco.imgToAnns.get(image_id, ()))
        if captions:
            records.append(Record(image_id, folder / image["file_name"], captions))
    return records


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error


def _check_coco(path: Path, dataset: Any) -> None:
    """Looks for everything that pycocotools would take without a word or stumble over with a KeyError."""
    if not isinstance(dataset, dict) or not all(isinstance(dataset.get(k), list) for k in ("images", "annotations")):
        raise DataError(f'{path}: not COCO captions JSON; expected an object with lists "images" and "annotations"')
    ids = set()
    for number, image in enumerate(dataset["images"]):
        where = f"{path}, images[{number}]"
        _check_id(where, image, "id")
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise DataError(f'{where}: no "file_name"')
        if image["id"] in ids:
            raise DataError(f"{where}: image id {image['id']!r} is used twice")
        ids.add(image["id"])
    for number, annotation in enumerate(dataset["annotations"]):
        where = f"{path}, annotations[{number}]"
        _check_id(where, annotation, "image_id")
        if annotation["image_id"] not in ids:
            raise DataError(f'{where}: image id {annotation["image_id"]!r} is not among the "images"')
        _check_caption(where, annotation.get("caption"))
        _check_id(where, annotation, "id")


def _check_id(where: str, entry: object, key: str) -> None:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected a JSON object")
    if not isinstance(entry.get(key), int | str) or isinstance(entry[key], bool):
        raise DataError(f'{where}: expected "{key}", a whole number or text')


def _check_caption(where: str, caption: object) -> None:
    if not isinstance(caption, str):
        raise DataError(f'{where}: expected "caption", a text')
    if not caption.strip():
        raise DataError(f"{where}: the caption is empty")


def _read_csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows as (where, row); `where` is the end of the file's name in a message."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path}: no column {' and '.join(map(repr, missing))} in its first line")
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _read_json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected a JSON object")
            yield where, row


def _gather(path: Path, rows: Iterable[tuple[str, Mapping[str, Any]]], folder: Path) -> list[Record]:
    captions: dict[str, list[str]] = {}
    for where, row in rows:
        image = row.get("image")
        if not isinstance(image, str) or not image.strip():
            raise DataError(f'{where}: expected "image", the path of an image')
        _check_caption(where, row.get("caption"))
        captions.setdefault(image, []).append(row["caption"])
    return [Record(image, folder / image, tuple(texts)) for image, texts in captions.items()]
