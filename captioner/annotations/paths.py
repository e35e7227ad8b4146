"""Resolve image paths from annotation files; give a hint where a path is wrong."""

import os
import re
import unicodedata
from pathlib import Path

_WINDOWS = re.compile(r"(^|/)([A-Za-z]:[\\/]|\\\\)")  # C:\, C:/ and \\server


def existing_name(folder: Path, name: str) -> str:
    """Find how a path is written in the file system.

    Blanks around it, backslashes, and accents as letters of their own or not (NFC, NFD) are what a
    table may differ in from the disk without a doubt of what is meant.

    Args:
        folder: Where the path starts.
        name: The path, as a table has it.

    Returns:
        `name` itself if there is such a file, or none in any of these ways.
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
    """Explain, as the end of a sentence, why a path may not exist; empty if there is no hint."""
    text = str(path)
    found = _in_other_case(Path(text.strip().replace("\\", "/") if os.sep == "/" else text.strip()))
    if found is not None:
        return f" ({found} exists, the annotations say {text})"
    if os.sep == "/" and _WINDOWS.search(text):
        return " (a path of Windows; expected one that starts from the folder of images)"
    if any(part != part.strip() for part in path.parts):
        return f" (there are blanks around its name: {text!r})"
    if "\\" in text and os.sep == "/":
        return " (its backslashes are taken for slashes, and still there is no such file)"
    return ""


def _is_plain(name: str) -> bool:
    return name.isascii() and "\\" not in name and name == name.strip()


def _in_other_case(path: Path) -> Path | None:
    """The only file whose path differs in capital and small letters alone."""
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
