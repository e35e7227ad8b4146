"""Entries of annotation files, independent of the file format, and checks of their values."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from captioner.errors import DataError


class Entry(NamedTuple):
    """An image or a clip as listed in its annotation file.

    Attributes:
        image_id: The image's id in the file.
        name: The path of the image, relative to the image folder.
        captions: One or more raw captions, in the order of the file.
        ranks: The rank of each caption, counted from 1; empty if the file has no ranks.
        captions_by: Who wrote the captions; empty if the file doesn't say.
        start: Start of the captioned part of a clip in seconds; None for the clip's start.
        end: End of the captioned part in seconds; None for the clip's end.
        suffixes: File suffixes to try if the file gives paths without one.
    """

    image_id: int | str
    name: str
    captions: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    captions_by: str = ""
    start: float | None = None
    end: float | None = None
    suffixes: tuple[str, ...] = ()


@contextmanager
def reading(path: Path, hint: str = "") -> Iterator[None]:
    """Name a text file whose reading fails.

    Args:
        path: The file.
        hint: What to do if it cannot be read, to append to the message.

    Raises:
        DataError: The file cannot be read, or is not UTF-8.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}){hint}") from error
    except UnicodeDecodeError as error:
        line = _line_of(path, error)
        raise DataError(f"{path}, line {line}: not UTF-8 text; save it as UTF-8") from error


def _line_of(path: Path, error: UnicodeDecodeError) -> int:
    """Return the line of a file that cannot be decoded; the error counts bytes of its own chunk."""
    try:
        (path.read_bytes() if path.is_file() else b"").decode()  # a pipe can't be read again
    except UnicodeDecodeError as found:
        error = found
    return error.object[: error.start].count(b"\n") + 1


def invalid_csv(path: Path, line: int, error: Exception) -> DataError:
    """Return an error about a line of a file that is not valid CSV."""
    return DataError(f"{path}, line {line}: invalid CSV ({error}); is a double quote missing?")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file isn't valid JSON; the message says where, and whether the file seems
            truncated.
    """
    return parse_json(path.read_text(encoding="utf-8-sig"), f"{path}, line {{}}")


def parse_json(text: str, where: str) -> Any:
    """Parse JSON.

    Args:
        text: The JSON.
        where: The source of the text, for messages; `{}` is replaced by the line number.

    Raises:
        DataError: The text isn't valid JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # An error at the end of the text means that the file is truncated.
        cut = error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip())
        hint = (
            "; the file is empty or truncated: was it saved or downloaded completely?"
            if cut
            else ""
        )
        message = f"invalid JSON ({error.msg} at column {error.colno}){hint}"
        raise DataError(f"{where.format(error.lineno)}: {message}") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # numbers with thousands of digits, thousands of nested brackets
        raise DataError(f"{where.format(1)}: JSON cannot be parsed ({error})") from error


def get_id(where: str, entry: Any, key: str) -> int | str:
    """Return an id of the object at `where`; raise `DataError` if it is no integer or string."""
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected a JSON object")
    value = entry.get(key)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise DataError(f'{where}: expected "{key}", an integer or a string')
    return value


def add_id(where: str, ids: set[int | str], value: int | str, what: str) -> None:
    """Add an id to the set of used ids; raise `DataError` if it is used already."""
    if value in ids:
        raise DataError(f"{where}: duplicate {what} id {value!r}")
    ids.add(value)


def get_text(where: str, entry: Any, key: str) -> str:
    """Return a string of the object at `where`; raise `DataError` if it is missing or empty."""
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: expected a JSON object")
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f'{where}: expected "{key}", a non-empty string')
    return value


def get_caption(where: str, entry: Any, key: str) -> str:
    """Return a caption of the object at `where`; raise `DataError` if it is missing or empty."""
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, str):
        raise DataError(f'{where}: expected "{key}", a string')
    if not value.strip():
        raise DataError(f"{where}: the caption is empty")
    return value


def get_seconds(where: str, row: Mapping[Any, Any], key: str) -> float | None:
    """Return the seconds of a key of the row at `where`; None if empty.

    Raises:
        DataError: The value is not a number of seconds, 0 or more.
    """
    value = row.get(key)
    if value is None or value == "":
        return None
    try:
        seconds = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise DataError(f'{where}: "{key}" is {value!r}; expected seconds, 0 or more')
    return seconds
