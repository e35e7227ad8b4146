"""An album: photos with their captions as one self-contained HTML page."""

import os
from dataclasses import dataclass
from pathlib import Path

from captioner._version import __version__
from captioner.caption import Caption
from captioner.files import name_as_text, replacing
from captioner.images.thumbnails import Thumbnail, thumbnail
from captioner.templates import inlined, render

_SIZE = (320, 320)  # pixels of a thumbnail, at most
_GENERATOR = b'<meta name="generator" content="captioner album">'


@dataclass(frozen=True)
class Picture:
    """A photo in an album.

    Attributes:
        name: Its path, as shown to the reader.
        caption: Its caption.
        tags: The tags recognised in it.
        thumbnail: A small JPEG.
    """

    name: str
    caption: str
    tags: tuple[str, ...]
    thumbnail: Thumbnail

    @property
    def words(self) -> str:
        """The text that the search field searches."""
        return " ".join((self.name, self.caption, *self.tags)).lower()


class Album:
    """Collects photos, then writes the page.

    A picture takes about 20 kB, so a page suits thousands of photos, not millions.

    Args:
        title: The page's title.
    """

    def __init__(self, title: str) -> None:
        self.title = name_as_text(title)
        self.pictures: list[Picture] = []

    def add(self, photo: str | os.PathLike[str], caption: Caption) -> None:
        """Add a photo.

        Raises:
            ImageError: The photo can no longer be read.
        """
        name = name_as_text(os.fspath(photo))
        tags = tuple(tag.noun for tag in caption.tags)
        self.pictures.append(Picture(name, caption.text, tags, thumbnail(photo, _SIZE)))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page.

        Raises:
            OSError: The page cannot be written.
        """
        page = render(
            "captioner.library",
            "album.html",
            title=self.title,
            pictures=self.pictures,
            **inlined(Path(__file__).with_name("album")),
            version=__version__,
        )
        with replacing(path) as partial:
            Path(partial).write_text(page, encoding="utf-8")


def is_album(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is an album page."""
    with open(path, "rb") as file:
        return _GENERATOR in file.read(1024)
