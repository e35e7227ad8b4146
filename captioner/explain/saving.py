"""Attention maps of many images into files, one a photo."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from captioner.caption import Caption
from captioner.errors import ConfigError


class AttentionFolder:
    """A folder with an .npz file for each photo, named like the photo: cat.jpg.npz.

    A file holds `words` (T,), `attention` (T, h, w), `log_probs` (T,), `caption` and the absolute `path` of the photo.
    Of photos of the same name in several folders, the second becomes cat.jpg-2.npz. A file is replaced only by one of
    the same photo, also in later runs.

    Args:
        folder: Where; made if it isn't there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, Path] = {}  # the file of each photo that is known to have one
        self._numbers: dict[str, Iterator[int]] = {}  # by name: the numbers of files that were not looked at yet

    def save(self, path: str | os.PathLike[str] | None, caption: Caption) -> Path:
        """Save the attention of a caption.

        Args:
            path: The photo's path; None for one without, which gets a new file each time: stdin.npz.
            caption: Its caption, the best one if there are several.

        Returns:
            The file.

        Raises:
            ConfigError: The model has no attention.
        """
        if caption.attention is None:
            raise ConfigError(
                "This model has no attention to save. captioner explain --method occlusion shows in another way which"
                " parts of a photo its words depend on."
            )
        photo = None if path is None else os.path.abspath(path)
        file = self._file_of(os.path.basename(photo or "stdin"), photo)
        partial = file.with_name(f"{file.name}.partial")
        with partial.open("wb") as opened:
            np.savez_compressed(
                opened,
                words=np.array(caption.words),
                attention=caption.attention,
                log_probs=np.array(caption.word_log_probs),
                caption=np.array(caption.text),
                path=np.array(photo or ""),
            )
        os.replace(partial, file)
        if photo is not None:
            self._files[photo] = file
        return file

    def _file_of(self, name: str, photo: str | None) -> Path:
        """The photo's own file, or the first of its name that is nobody's."""
        if photo is not None and photo in self._files:
            return self._files[photo]
        for number in self._numbers.setdefault(name, count(1)):
            file = self.folder / (f"{name}.npz" if number == 1 else f"{name}-{number}.npz")
            if not file.exists():
                return file
            owner = _owner(file)
            if owner is not None and owner == photo:
                return file
            if owner is not None:
                self._files[owner] = file
        raise AssertionError


def _owner(file: Path) -> str | None:
    """The path of the photo that a file is of; None if it doesn't say."""
    try:
        with np.load(file) as arrays:
            return str(arrays["path"])
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
