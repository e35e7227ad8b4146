"""Parse annotation files: COCO captions JSON, Karpathy's splits, CSV and JSON Lines."""

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from captioner.errors import DataError, MissingExtraError

Row = tuple[str, Mapping[Any, Any]]  # where it stands, to begin a message with, and what it says

COLUMNS = ("image", "caption")
_SPLITS = {
    "train": "train",
    "restval": "train",
    "val": "val",
    "test": "test",
}  # Karpathy's names: what they count as


class Entry(NamedTuple):
    """An image as its annotation file tells it.

    Attributes:
        image_id: How the file names the image.
        name: The path of the image, from the folder of images.
        captions: One or more captions, raw, in the order of the file.
        ranks: Of each caption, from 1 on; empty where the file has none, and captions have but
            their places.
        captions_by: Who wrote the captions; empty where the file doesn't say.
    """

    image_id: int | str
    name: str
    captions: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    captions_by: str = ""


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: It isn't JSON; the message says where, and whether the file seems cut off.
    """
    return _parse(path.read_text(encoding="utf-8-sig"), f"{path}, line {{}}")


def _parse(text: str, where: str) -> Any:
    """JSON to Python; `where` is given the line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # Whatever is expected behind the last characters was lost with the rest of the file.
        cut = error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip())
        hint = (
            "; the file is empty or ends too early: was it saved or downloaded to its end?"
            if cut
            else ""
        )
        message = f"not JSON ({error.msg} at column {error.colno}){hint}"
        raise DataError(f"{where.format(error.lineno)}: {message}") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # numbers of thousands of digits, thousands of brackets
        raise DataError(f"{where.format(1)}: not JSON that can be read ({error})") from error


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
        _add_id(where, ids, _id(where, image, "id"), "image")
        _text(where, image, "file_name")
        if "captions_by" in image:
            _text(where, image, "captions_by")
    used: set[int | str] = set()
    for number, annotation in enumerate(dataset["annotations"]):
        where = f"{file}, annotations[{number}]"
        image_id = _id(where, annotation, "image_id")
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
        _caption(where, annotation, "caption")
        rank = annotation.get("rank", 1)
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise DataError(
                f'{where}: "rank" is {rank!r}; expected a whole number, 1 for the first caption'
            )
        _add_id(where, used, _id(where, annotation, "id"), "annotation")


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
        image_id = _id(
            where, image, "cocoid" if isinstance(image, dict) and "cocoid" in image else "imgid"
        )
        _add_id(where, ids, image_id, "image")
        name = _text(where, image, "filename")
        if "filepath" in image:
            name = f"{_text(where, image, 'filepath')}/{name}"
        its_split = _SPLITS.get(_text(where, image, "split"))
        if its_split is None:
            raise DataError(
                f'{where}: "split" is {image["split"]!r}; expected one of {", ".join(_SPLITS)}'
            )
        sentences = image.get("sentences")
        if not isinstance(sentences, list) or not sentences:
            raise DataError(f'{where}: expected "sentences", a list of one or more')
        captions = tuple(
            _caption(f"{where}, sentences[{k}]", sentence, "raw")
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
    """The images of a table with the columns `image` and `caption`.

    Raises:
        DataError: Something is wrong in it.
    """
    return _gather(csv_rows(path))


def read_json_lines(path: Path) -> list[Entry]:
    """The images of a file with an object `{"image", "caption"}` a line.

    Raises:
        DataError: Something is wrong in it.
    """
    return _gather(_json_rows(path))


def csv_rows(path: Path, wanted: Sequence[str] = COLUMNS) -> Iterator[Row]:
    """The rows of a table; those of empty fields are skipped.

    Args:
        path: A CSV file in UTF-8.
        wanted: The columns that it must have.

    Raises:
        DataError: A column is missing, or it isn't CSV.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = 0  # the last that is understood
        try:
            columns = _known_names(next(csv.reader([file.readline()]), []), wanted)
            _check_columns(path, columns, wanted)
            file.seek(0)
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = _known_names(reader.fieldnames or (), wanted)
            line = 1
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if not any("".join(value or ()).strip() for value in row.values()):
                    continue  # spreadsheets write rows that were filled once: ,,
                if any(row.get(None) or ()):
                    raise DataError(
                        f"{where}: more values than columns; put a {wanted[-1]} with commas in"
                        " double quotes"
                    )
                yield where, row
                line = reader.line_num
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line + 1}: not CSV ({error}); is a double quote left open?"
            ) from error


def _known_names(names: Iterable[str], wanted: Sequence[str] = COLUMNS) -> list[str]:
    """Normalise column names: match the expected ones regardless of case and spaces."""
    names = list(names)
    plain = [name.strip().lower() for name in names]
    return [
        known if known in wanted and known not in names else name
        for name, known in zip(names, plain, strict=True)
    ]


def _check_columns(path: Path, columns: list[str], wanted: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in columns]
    if missing:
        message = f"{path}: no column {' and '.join(map(repr, missing))} in its first line"
        for name, delimiter in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
            parts = [part.strip(' "').lower() for part in ",".join(columns).split(delimiter)]
            if set(wanted) <= set(parts):
                raise DataError(
                    f"{message}, whose columns are divided by {name}; save it with commas"
                )
        raise DataError(f"{message}; expected {','.join(wanted)} (and others, if you like)")
    twice = [column for column in wanted if columns.count(column) > 1]
    if twice:
        raise DataError(
            f"{path}: the column {twice[0]!r} is there twice; write one {wanted[-1]} a row"
        )


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                row = _parse(line, where)
                if not isinstance(row, dict):
                    raise DataError(f"{where}: expected a JSON object")
                yield where, dict(zip(_known_names(row), row.values(), strict=True))


def _gather(rows: Iterable[Row]) -> list[Entry]:
    captions: dict[str, list[str]] = {}
    for where, row in rows:
        image = row.get("image")
        if not isinstance(image, str) or not image.strip():
            raise DataError(f'{where}: expected "image", the path of an image')
        captions.setdefault(image, []).append(_caption(where, row, "caption"))
    return [Entry(image, image, tuple(texts)) for image, texts in captions.items()]


def _id(where: str, entry: Any, key: str) -> int | str:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected a JSON object")
    value = entry.get(key)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise DataError(f'{where}: expected "{key}", a whole number or text')
    return value


def _add_id(where: str, ids: set[int | str], value: int | str, what: str) -> None:
    if value in ids:
        raise DataError(f"{where}: {what} id {value!r} is used twice")
    ids.add(value)


def _other_kind(image_id: int | str, ids: Iterable[int | str]) -> str:
    """A hint where 42 was written as "42" or the other way round."""
    if str(image_id) in map(str, ids):
        return (
            f" (but {'text' if isinstance(image_id, int) else 'a number'} with the same digits is)"
        )
    return ""


def _text(where: str, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f'{where}: expected "{key}", a text')
    return value


def _caption(where: str, entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, str):
        raise DataError(f'{where}: expected "{key}", a text')
    if not value.strip():
        raise DataError(f"{where}: the caption is empty")
    return value


def _read_any_json(path: Path, split: str | None) -> tuple[list[Entry], bool]:
    dataset = read_json(path)
    if is_karpathy(dataset):
        return read_karpathy(path, dataset, split), True
    return read_coco(path, dataset), False


Reader = Callable[[Path, str | None], tuple[list[Entry], bool]]

FORMATS: dict[str, Reader] = {
    ".json": _read_any_json,
    ".csv": lambda path, split: (read_csv(path), False),
    ".jsonl": lambda path, split: (read_json_lines(path), False),
}
"""Readers by file suffix: (path, split) -> entries, and whether the file has splits."""
