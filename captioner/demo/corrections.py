"""Better captions from visitors, kept with their photos on this machine as a table to train on."""

import csv
import hashlib
import io
import os
from pathlib import Path
from threading import Lock

from captioner.annotations.formats import COLUMNS
from captioner.demo import limits
from captioner.errors import ConfigError, DataError
from captioner.files import replacing
from captioner.images import open_image

_QUALITY = 92  # of the JPEG that is kept
_FORMULAS = "=+-@ "  # what spreadsheets take for the start of a formula, and spaces


class Corrections:
    """A CSV file with the columns `image` and `caption`, a row for each correction.

    Photos are kept beside it, in a folder named like it: corrections.csv, corrections/. They are
    upright JPEGs named by their content, without metadata (such as the place where they were
    taken).

    Args:
        file: The CSV file; made with the first correction, continued if it is there.

    Raises:
        ConfigError: There is no such folder, or the file is there and is another table.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self.file = Path(file)
        self.photos = self.file.with_suffix("")
        self._lock = Lock()
        self._rows = _read(self.file)

    def add(self, photo: Path, text: object, agreed: object) -> bool:
        """Keep a correction.

        Args:
            photo: The photo.
            text: The better caption, as the visitor wrote it.
            agreed: Whether the visitor agrees that both are kept.

        Returns:
            Whether it was new.

        Raises:
            DataError: It is not to be kept, with a sentence for the visitor.
            ImageError: The photo cannot be read.
        """
        if agreed is not True:
            raise DataError("Nothing is kept unless you agree: tick the box first.")
        caption = checked(text)
        content = _jpeg(photo)
        name = f"{hashlib.sha256(content).hexdigest()[:20]}.jpg"
        row = (f"{self.photos.name}/{name}", caption)
        with self._lock:
            if row in self._rows:
                return False
            if len(self._rows) >= limits.MOST_CORRECTIONS:
                raise DataError("No more corrections are taken here. Thank you all the same.")
            self._write(self.photos / name, content, row)
            self._rows.add(row)
        return True

    def _write(self, photo: Path, content: bytes, row: tuple[str, str]) -> None:
        """Write the photo before the row, so that no row lacks its photo."""
        self.photos.mkdir(exist_ok=True)
        if not photo.exists():
            with replacing(photo) as partial:
                partial.write_bytes(content)
        begin = not self.file.exists() or not self.file.stat().st_size
        with self.file.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, row] if begin else [row])


def checked(text: object) -> str:
    """Bring a visitor's caption into form: one line, with single spaces.

    Raises:
        DataError: It is no caption, with a sentence for the visitor.
    """
    caption = " ".join(text.split()) if isinstance(text, str) else ""
    caption = caption.lstrip(_FORMULAS)
    if not any(letter.isalpha() for letter in caption):
        raise DataError("Write a caption first: a sentence that says what the photo shows.")
    if len(caption) > limits.LONGEST_CORRECTION or not caption.isprintable():
        raise DataError(
            f"This is no caption: expected one sentence of at most {limits.LONGEST_CORRECTION}"
            " characters."
        )
    return caption


def _jpeg(photo: Path) -> bytes:
    """A photo as it is kept: upright, no larger than training needs, without metadata."""
    image = open_image(photo, min_size=limits.KEPT_SIZE)
    image.thumbnail((limits.KEPT_SIZE, limits.KEPT_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _read(file: Path) -> set[tuple[str, str]]:
    """The corrections that a file has already."""
    if file.suffix.lower() != ".csv":
        raise ConfigError(f"--corrections {file}: expected a name that ends in .csv.")
    folder = file.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--corrections {file}: {folder} is no folder that can be written to.")
    if not file.exists():
        return set()
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [tuple(row) for row in csv.reader(lines) if row]
    except (OSError, UnicodeError, csv.Error) as error:
        raise ConfigError(f"--corrections {file}: cannot be read ({error}).") from error
    if rows and (rows[0] != COLUMNS or any(len(row) != len(COLUMNS) for row in rows)):
        raise ConfigError(
            f"--corrections {file} is there already and has other columns than"
            f" {','.join(COLUMNS)}; name another file."
        )
    return {(image, caption) for image, caption in rows[1:]}
