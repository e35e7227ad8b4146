"""Save better captions by visitors, with their photos, as a CSV file to train on."""

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

_QUALITY = 92  # of the saved JPEG
_FORMULAS = "=+-@ "  # characters that start a formula in spreadsheets, and spaces


class Corrections:
    """A CSV file with the columns `image` and `caption` and one row per correction.

    Photos are saved next to it in a folder of the same name: corrections.csv, corrections/. They
    are upright JPEGs named by a hash of their content, without metadata such as GPS coordinates.

    Args:
        file: The CSV file; created with the first correction, or appended to.

    Raises:
        ConfigError: The folder doesn't exist, or the file has other columns.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self.file = Path(file)
        self.photos = self.file.with_suffix("")
        self._lock = Lock()
        self._rows = _read(self.file)

    def add(self, photo: Path, text: object, agreed: object) -> bool:
        """Save a correction.

        Args:
            photo: The photo.
            text: The better caption, as typed by the visitor.
            agreed: Whether the visitor agrees to saving both.

        Returns:
            Whether it was new.

        Raises:
            DataError: The correction is rejected; the message is for the visitor.
            ImageError: The photo cannot be read.
        """
        if agreed is not True:
            raise DataError("Nothing is saved without your consent: tick the box first.")
        caption = checked(text)
        content = _jpeg(photo)
        name = f"{hashlib.sha256(content).hexdigest()[:20]}.jpg"
        row = (f"{self.photos.name}/{name}", caption)
        with self._lock:
            if row in self._rows:
                return False
            if len(self._rows) >= limits.MOST_CORRECTIONS:
                raise DataError("This server accepts no more corrections. Thank you anyway.")
            self._write(self.photos / name, content, row)
            self._rows.add(row)
        return True

    def _write(self, photo: Path, content: bytes, row: tuple[str, str]) -> None:
        """Write the photo and then the row, so that every row has its photo.

        A person may have edited the file and left out the end of its last line.
        """
        self.photos.mkdir(exist_ok=True)
        if not photo.exists():
            with replacing(photo) as partial:
                partial.write_bytes(content)
        with io.FileIO(self.file, "a+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            text = io.StringIO("" if file.read(1) in (b"", b"\n") else "\n", newline="")
            text.seek(0, os.SEEK_END)
            csv.writer(text, lineterminator="\n").writerows([row] if size else [COLUMNS, row])
            data = text.getvalue().encode()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:  # a full disk: no part of a row stays
                file.truncate(size)
                raise


def checked(text: object) -> str:
    """Check a visitor's caption, and normalize it to one line with single spaces.

    Raises:
        DataError: It is empty, too long or has invisible characters; the message is for the
            visitor.
    """
    caption = " ".join(text.split()) if isinstance(text, str) else ""
    caption = caption.lstrip(_FORMULAS)
    if not any(letter.isalpha() for letter in caption):
        raise DataError("Write a caption first: a sentence that says what the photo shows.")
    if not caption.isprintable():
        raise DataError(
            "This caption has invisible characters, such as those that join emoji: write it in"
            " plain letters."
        )
    if len(caption) > limits.LONGEST_CORRECTION:
        raise DataError(
            f"This caption is too long: expected one sentence of at most"
            f" {limits.LONGEST_CORRECTION} characters."
        )
    return caption


def _jpeg(photo: Path) -> bytes:
    """Encode a photo for saving: upright, no larger than training needs, without metadata."""
    image = open_image(photo, min_size=limits.KEPT_SIZE)
    image.thumbnail((limits.KEPT_SIZE, limits.KEPT_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _read(file: Path) -> set[tuple[str, str]]:
    """Read the corrections in an existing file."""
    if file.suffix.lower() != ".csv":
        raise ConfigError(f"--corrections {file}: expected a file name ending in .csv.")
    folder = file.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--corrections {file}: {folder} is not a writable folder.")
    photos = file.with_suffix("")
    if photos.exists() and not photos.is_dir():
        raise ConfigError(f"--corrections {file}: photos go into {photos}, which is not a folder.")
    if not file.exists():
        return set()
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [tuple(row) for row in csv.reader(lines) if row]
    except (OSError, UnicodeError, csv.Error) as error:
        raise ConfigError(f"--corrections {file}: cannot be read ({error}).") from error
    if rows and (rows[0] != COLUMNS or any(len(row) != len(COLUMNS) for row in rows)):
        raise ConfigError(
            f"--corrections {file} already exists and has other columns than"
            f" {','.join(COLUMNS)}; choose another file."
        )
    return {(image, caption) for image, caption in rows[1:]}
