"""Files of captions to score.

COCO results            `[{"image_id": 42, "caption": "a dog"}, ...]`
TSV, CSV, JSON Lines,   of `captioner caption --output`: a path and a caption for each image
Parquet
"""

import contextlib
import io
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias
from unicodedata import normalize

from captioner.annotations.entries import read_json, reading
from captioner.annotations.formats import Row, csv_rows, json_rows
from captioner.annotations.records import Record
from captioner.errors import DataError, MissingExtraError
from captioner.files import replacing
from captioner.library.tables import read_parquet, unescape_formula, unescape_row
from captioner.video.subtitles import is_time_span

ImageId: TypeAlias = int | str

_FORM = '{"image_id": ..., "caption": ...}'
_MISSING = "missing"
_SHOWN = 3  # errors of each kind that are listed


def save_results(
    path: str | os.PathLike[str],
    captions: Mapping[ImageId, str] | Mapping[int, str] | Mapping[str, str],
) -> None:
    """Write captions in COCO results format, one per line, as the COCO server accepts it."""
    lines = (
        json.dumps({"image_id": image_id, "caption": caption}, ensure_ascii=False)
        for image_id, caption in captions.items()
    )
    # Lone surrogates, which UTF-8 cannot encode, are written as JSON escapes.
    with replacing(path) as partial:
        partial.write_text(
            "[" + ",\n".join(lines) + "]\n", encoding="utf-8", errors="backslashreplace"
        )


def load_captions(
    path: str | os.PathLike[str], records: Sequence[Record], *, allow_missing: bool = False
) -> dict[ImageId, str]:
    """Read captions to score: COCO results, TSV, CSV, JSON Lines or Parquet.

    The image of a path in a table is the annotated one whose path ends with the same
    parts, the more the better, and at least with the same file name.

    Args:
        path: A .tsv, .txt, .csv, .jsonl or .parquet file of `captioner caption --output` (other
            columns than the path and the caption are ignored, and images without a caption, which
            `--min-confidence` left out, are missing), or another file with COCO results.
        records: The images that have references.
        allow_missing: Accept files that lack some, but not all, of the images.

    Returns:
        The captions by image id, as `load_results` does.

    Raises:
        DataError: As for `load_results`, or a path fits no image or several.
        MissingExtraError: pycocotools, or pyarrow for Parquet, is not installed.
    """
    path = Path(path)
    image_ids = [record.image_id for record in records]
    read = _TABLES.get(path.suffix.lower())
    if read is None:
        return load_results(path, image_ids, allow_missing=allow_missing)
    with reading(path):
        entries = [
            entry for entry in _match(read(path), records) if entry["caption"] not in ("", None)
        ]
    _check(path, entries, image_ids, allow_missing)
    return {entry["image_id"]: _whole(entry["caption"]) for entry in entries}


def load_results(
    path: str | os.PathLike[str], image_ids: Collection[ImageId], *, allow_missing: bool = False
) -> dict[ImageId, str]:
    """Read captions in COCO results format, with pycocotools' `COCO.loadRes`.

    Errors that `loadRes` ignores or fails on are checked for first, so that all errors in a file
    are reported together.

    Args:
        path: A JSON file with a list of `{"image_id", "caption"}`; other keys are ignored.
        image_ids: The images that have references; the results must have all of them and no others.
        allow_missing: Accept results that lack some, but not all, of the images.

    Returns:
        The captions by image id, in the order of the file; captions may be empty. Lone surrogates,
        which JSON can contain and UTF-8 cannot encode, are replaced by U+FFFD.

    Raises:
        DataError: The file cannot be read, has another format, has an image twice, or its images
            differ from `image_ids`.
        MissingExtraError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise MissingExtraError("Reading COCO results", "eval") from error
    path = Path(path)
    entries = _read_list(path)
    _check(path, entries, image_ids, allow_missing)
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image_id} for image_id in image_ids],
        "annotations": [],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco.createIndex()
        loaded = coco.loadRes(
            [{key: entry[key] for key in ("image_id", "caption")} for entry in entries]
        )
    return {
        annotation["image_id"]: _whole(annotation["caption"])
        for annotation in loaded.dataset["annotations"]
    }


def load_json(path: Path, expected: str = "") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        expected: What the file should have, for errors about invalid JSON.

    Raises:
        DataError: The file cannot be read, or isn't valid JSON.
    """
    with reading(path):
        try:
            return read_json(path)
        except DataError as error:
            raise DataError(f"{error}{expected and f' (expected {expected})'}") from error


def _tsv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            name, tab, rest = line.rstrip("\r\n").partition("\t")
            where = f"{path}, line {number}"
            if not tab:
                raise DataError(f"{where}: expected a path, a tab and a caption")
            caption, more, _ = rest.partition("\t")
            if more and is_time_span(caption):
                raise DataError(
                    f"{where}: a shot of a clip; expected one caption of each clip, as `captioner"
                    " caption --summary` writes it"
                )
            yield where, {"path": unescape_row(name), "caption": caption}


def _csv_rows(path: Path) -> Iterator[Row]:
    for where, row in csv_rows(path, ("path", "caption")):
        yield where, {key: unescape_formula(row[key] or "") for key in ("path", "caption")}


def _parquet_rows(path: Path) -> Iterator[Row]:
    for number, row in enumerate(read_parquet(path, ("path", "caption")), 1):
        yield f"{path}, row {number}", row


_TABLES: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".tsv": _tsv_rows,
    ".txt": _tsv_rows,
    ".csv": _csv_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".parquet": _parquet_rows,
}


def _match(rows: Iterator[Row], records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Yield an entry of COCO results for each row."""
    by_name: dict[str, list[tuple[Path, Record]]] = {}
    for record in records:
        path = _composed(record.path)
        by_name.setdefault(path.name, []).append((path, record))
    for where, row in rows:
        if not isinstance(row.get("path"), str) or "caption" not in row:
            raise DataError(f'{where}: expected "path", the path of an image, and "caption"')
        path = _composed(row["path"])
        found = by_name.get(path.name, [])
        if not found:
            raise DataError(f"{where}: no annotated image has the file name {path.name!r}")
        common = [_common_end(path, known) for known, _ in found]
        if common.count(max(common)) > 1:
            raise DataError(
                f"{where}: {len(found)} annotated images have the file name {path.name!r}; write"
                " more of its path"
            )
        _, record = found[common.index(max(common))]
        yield {"image_id": record.image_id, "caption": row["caption"]}


def _composed(path: str | Path) -> Path:
    """Return a path with composed accents: annotations may have them decomposed, or a disk."""
    return Path(normalize("NFC", str(path)))


def _common_end(one: Path, other: Path) -> int:
    """Return the number of last parts that two paths have in common."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return len(list(takewhile(lambda parts: parts[0] == parts[1], pairs)))


def _whole(text: str) -> str:
    return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")


def _read_list(path: Path) -> list[Any]:
    entries = load_json(path, f"a list of {_FORM}")
    if isinstance(entries, dict) and {"images", "annotations"} & entries.keys():
        raise DataError(f"{path}: these are annotations, not results; expected a list of {_FORM}")
    if not isinstance(entries, list):
        raise DataError(f"{path}: not COCO results; expected a list of {_FORM}")
    if not entries:
        raise DataError(
            f"{path}: the list is empty; expected a list of {_FORM}, one entry per image"
        )
    return entries


def _check(
    path: Path, entries: list[Any], image_ids: Collection[ImageId], allow_missing: bool
) -> None:
    """Check all entries, and report the first few errors of each kind."""
    mistakes: dict[str, list[str]] = {}
    wanted = {str(image_id): image_id for image_id in image_ids} | dict(
        zip(image_ids, image_ids, strict=True)
    )
    first_of: dict[ImageId, int] = {}
    for number, entry in enumerate(entries):
        found = _mistake(number, entry, first_of, wanted)
        if found is not None:
            kind, message = found
            mistakes.setdefault(kind, []).append(f"entry {number}: {message}")
    missing = [image_id for image_id in image_ids if image_id not in first_of]
    if missing and not allow_missing and (first_of or not mistakes):
        named = ", ".join(map(repr, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
        have = "has" if len(missing) == 1 else "have"
        mistakes[_MISSING] = [
            f"{len(missing):,} of {len(image_ids):,} annotated images {have} no caption: image"
            f" {named}; caption them, or score only the others with --allow-missing"
        ]
    if mistakes:
        raise DataError(_tell(path, mistakes))


def _mistake(
    number: int, entry: Any, first_of: dict[ImageId, int], wanted: Mapping[ImageId, ImageId]
) -> tuple[str, str] | None:
    """Return the kind of error in an entry and its message; None if the entry is valid.

    Args:
        number: The index of the entry in the file.
        entry: The entry.
        first_of: The index of each image's first entry; updated here.
        wanted: Each image's id, by itself and by its digits as a string.
    """
    if not isinstance(entry, dict) or not {"image_id", "caption"} <= entry.keys():
        return "form", f"expected {_FORM}, not {_short(entry)}"
    image_id, caption = entry["image_id"], entry["caption"]
    if not isinstance(image_id, int | str) or isinstance(image_id, bool):
        return "image_id", f'"image_id" must be an integer or a string, not {_short(image_id)}'
    known = wanted.get(image_id, wanted.get(str(image_id)))
    if known is None:
        return "unknown", f"image {image_id!r} has no reference captions in the annotations"
    before = first_of.setdefault(known, number)
    if known != image_id:
        kind = "a string" if isinstance(known, str) else "a number"
        return (
            "unknown",
            (f"image {image_id!r} is not in the annotations, but {known!r} is; write it as {kind}"),
        )
    if not isinstance(caption, str):
        return (
            "caption",
            f"the caption of image {image_id!r} must be a string, not {_short(caption)}",
        )
    if before != number:
        return (
            "twice",
            f"image {image_id!r} has a caption in entry {before} already; keep one of them",
        )
    return None


def _tell(path: Path, mistakes: Mapping[str, list[str]]) -> str:
    wrong = sum(len(found) for kind, found in mistakes.items() if kind != _MISSING)
    if len(mistakes) == 1 and wrong <= 1:
        ((message,),) = mistakes.values()
        return f"{path}, {message}" if wrong else f"{path}: {message}"
    lines = [
        f"{path}: {wrong:,} {'entry' if wrong == 1 else 'entries'} cannot be used (counted from 0)"
    ]
    for found in mistakes.values():
        lines += [f"  {message}" for message in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN:,} more like that")
    return "\n".join(lines)


def _short(value: object) -> str:
    """Format a value as JSON, truncated if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
