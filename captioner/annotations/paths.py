"""Resolve image paths from annotation files, and give hints about wrong paths."""

import os
import re
import unicodedata
from pathlib import Path

_WINDOWS = re.compile(r"(^|/)([A-Za-z]:[\\/]|\\\\)")  # C:\, C:/ and \\server


def existing_name(folder: Path, name: str) -> str:
    """Find how a path from an annotation file is spelled in the file system.

    Surrounding spaces, backslashes and the Unicode form of accents (NFC or NFD) may differ.

    Args:
        folder: The folder that the path is relative to.
        name: The path as written in the annotation file.

    Returns:
        The spelling for which a file exists; `name` itself if there is none.
    """
    if _is_plain(name) or os.path.isfile(folder / name):
        return name
    slashed = name.strip().replace("\\", "/") if os.sep == "/" else name.strip()
    ways = [
        name.strip(),
        slashed,
        *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")),
    ]
    return next((way for way in ways if way and os.path.isfile(folder / way)), name)


def hint(path: Path) -> str:
    """Explain why a path may not exist, to append to a message; "" if there is no hint."""
    text = str(path)
    found = _in_other_case(Path(text.strip().replace("\\", "/") if os.sep == "/" else text.strip()))
    if found is not None:
        return f" ({found} exists, but the annotations say {text})"
    if os.sep == "/" and _WINDOWS.search(text):
        return " (a Windows path; expected a path relative to the image folder)"
    if any(part != part.strip() for part in path.parts):
        return f" (there are spaces around the name: {text!r})"
    if "\\" in text and os.sep == "/":
        return " (the file doesn't exist with slashes instead of backslashes either)"
    return ""


def _is_plain(name: str) -> bool:
    return name.isascii() and "\\" not in name and name == name.strip()


def _in_other_case(path: Path) -> Path | None:
    """Find the only file whose path differs just in upper and lower case."""
    there = [Path(path.anchor)] if path.anchor else [Path()]
    for part in path.parts[1:] if path.anchor else path.parts:
        exact = [folder / part for folder in there if os.path.exists(folder / part)]
        there = exact or [
            folder / name
            for folder in there
            for name in _names(folder)
            if name.lower() == part.lower()
        ]
    files = [found for found in there if found.is_file()]
    return files[0] if len(files) == 1 and files[0] != path else None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []
