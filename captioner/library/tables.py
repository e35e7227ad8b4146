"""Captions as rows of a table: with tabs, CSV that spreadsheets open, and Parquet."""

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import DataError, MissingExtraError
from captioner.files import name_as_text, replacing

if TYPE_CHECKING:
    from captioner.caption import Caption

COLUMNS = ("path", "caption", "log_prob", "confidence", "tags")
"""The columns of a CSV table."""

BOM = "\ufeff"
"""Starts a CSV file; without it, spreadsheets assume a legacy encoding."""

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ROWS = 4096  # written to Parquet at once


def csv_header() -> str:
    """Return the first row of a table."""
    return _line(COLUMNS)


def csv_rows(name: str, caption: "Caption") -> str:
    """Return the rows of an image: one, or one for each alternative.

    Numbers are not quoted; text that a spreadsheet would read as a formula gets a leading
    apostrophe.

    Args:
        name: The image's path.
        caption: Its caption.

    Returns:
        Lines with their line endings.
    """
    rows = []
    for one in caption.alternatives or [caption]:
        tags = "; ".join(tag.noun for tag in one.tags)
        texts = [escape_formula(text) for text in (name, one.text, tags)]
        rows.append(_line([*texts[:2], one.log_prob, one.confidence, texts[2]]))
    return "".join(rows)


def csv_path(record: str) -> str | None:
    """Return the path in a row of such a table; None if it is not a valid row."""
    try:
        rows = list(csv.reader(StringIO(record, newline="")))
    except csv.Error:
        return None
    if len(rows) != 1 or len(rows[0]) != len(COLUMNS):
        return None
    return unescape_formula(rows[0][0])


def escape_formula(text: str) -> str:
    """Prevent a spreadsheet from reading text as a formula, with a leading apostrophe.

    Formulas start with `=`, `+`, `-` or `@`, possibly after a tab or a carriage return, which some
    programs skip (OWASP, "CSV Injection").
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_formula(text: str) -> str:
    """Undo `escape_formula`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def escape_row(name: str) -> str:
    r"""Escape a path for a table with tabs: tab, newline, carriage return become `\t`, `\n`, `\r`.

    A backslash is doubled, except on Windows, where names cannot contain the other characters.
    """
    return name if os.name == "nt" else "".join(_ESCAPES.get(letter, letter) for letter in name)


def unescape_row(field: str) -> str:
    """Invert `escape_row`."""
    if os.name == "nt":
        return field
    plain = {escaped: letter for letter, escaped in _ESCAPES.items()}
    parts, at = [], 0
    while at < len(field):
        length = 2 if field[at] == "\\" else 1
        parts.append(plain.get(field[at : at + length], field[at : at + length]))
        at += length
    return "".join(parts)


def _line(values: Any) -> str:
    out = StringIO(newline="")
    csv.writer(out).writerow(values)  # by its own end of lines, it quotes both of its characters
    return f"{out.getvalue()[:-2]}\n"


def check_parquet() -> None:
    """Check that Parquet can be written.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    _pyarrow()


def write_parquet(rows: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Convert captions in JSON lines to a Parquet file atomically.

    Args:
        rows: The output of `captioner caption --format jsonl --output`.
        output: The file to write or replace. It has the columns path, caption, log_prob,
            confidence, tags (noun, probability) and alternatives (caption, log_prob).

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: A file cannot be read or written.
    """
    pyarrow, parquet = _pyarrow()
    number = pyarrow.float64()
    tag = pyarrow.struct({"noun": pyarrow.string(), "probability": number})
    alternative = pyarrow.struct({"caption": pyarrow.string(), "log_prob": number})
    schema = pyarrow.schema(
        {
            "path": pyarrow.string(),
            "caption": pyarrow.string(),
            "log_prob": number,
            "confidence": number,
            "tags": pyarrow.list_(tag),
            "alternatives": pyarrow.list_(alternative),
        }
    )
    with (
        replacing(output) as partial,
        open(rows, encoding="utf-8", errors="surrogateescape") as file,
        parquet.ParquetWriter(partial, schema) as writer,
    ):
        entries = (_entry(line) for line in file)
        for part in _parts(entries):
            writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file.

    Args:
        path: The file.
        columns: The columns to read; others are ignored.

    Raises:
        DataError: It is not a Parquet file, or lacks a column.
        MissingExtraError: pyarrow is not installed.
        OSError: It cannot be read.
    """
    pyarrow, parquet = _pyarrow("Reading Parquet")
    try:
        with parquet.ParquetFile(path) as file:
            missing = set(columns) - set(file.schema_arrow.names)
            if missing:
                raise DataError(f"{path}: no column {' or '.join(sorted(missing))}")
            for batch in file.iter_batches(_ROWS, columns=list(columns)):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({error})") from error


def _entry(line: str) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(line)
    return {**entry, "path": name_as_text(entry["path"])}


def _parts(entries: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while part := list(islice(entries, _ROWS)):
        yield part


def rows_beside(output: Path) -> Path:
    """Return the file that collects the rows of a Parquet file, so that a run can be resumed."""
    return output.with_name(f"{output.name}.rows.jsonl")


def _pyarrow(purpose: str = "Writing Parquet") -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError(purpose, "parquet") from error
    return pyarrow, parquet
