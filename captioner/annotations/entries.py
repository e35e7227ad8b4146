"""What annotation files hold, whatever their format: entries, and checks of the values in them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from captioner.errors import DataError


class Entry(NamedTuple):
    """An image, or a clip, as its annotation file tells it.

    Attributes:
        image_id: How the file names the image.
        name: The path of the image, from the folder of images.
        captions: One or more captions, raw, in the order of the file.
        ranks: Of each caption, from 1 on; empty where the file has none, and captions have but
            their places.
        captions_by: Who wrote the captions; empty where the file doesn't say.
        start: Where the part of a clip begins, in seconds; None for the clip's beginning.
        end: Where it ends; None for the clip's end.
        suffixes: What the path may end in besides, where the file doesn't say.
    """

    image_id: int | str
    name: str
    captions: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    captions_by: str = ""
    start: float | None = None
    end: float | None = None
    suffixes: tuple[str, ...] = ()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: It isn't JSON; the message says where, and whether the file seems cut off.
    """
    return parse_json(path.read_text(encoding="utf-8-sig"), f"{path}, line {{}}")


def parse_json(text: str, where: str) -> Any:
    """JSON to Python.

    Args:
        text: The JSON.
        where: Where it stands, for messages; it is formatted with the number of the line.

    Raises:
        DataError: It isn't JSON.
    """
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


def get_id(where: str, entry: Any, key: str) -> int | str:
    """The id under a key of an object that stands at `where`; anything else is a `DataError`."""
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected a JSON object")
    value = entry.get(key)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise DataError(f'{where}: expected "{key}", a whole number or text')
    return value


def add_id(where: str, ids: set[int | str], value: int | str, what: str) -> None:
    """Add an id to those that are used; one that is among them already is a `DataError`."""
    if value in ids:
        raise DataError(f"{where}: {what} id {value!r} is used twice")
    ids.add(value)


def get_text(where: str, entry: Mapping[str, Any], key: str) -> str:
    """The text under a key of an object that stands at `where`; none is a `DataError`."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f'{where}: expected "{key}", a text')
    return value


def get_caption(where: str, entry: Any, key: str) -> str:
    """Return the caption under a key of the object at `where`; an empty one is a `DataError`."""
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, str):
        raise DataError(f'{where}: expected "{key}", a text')
    if not value.strip():
        raise DataError(f"{where}: the caption is empty")
    return value


def get_seconds(where: str, row: Mapping[Any, Any], key: str) -> float | None:
    """The seconds under a key of the row at `where`, None for an empty one; else a `DataError`."""
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
