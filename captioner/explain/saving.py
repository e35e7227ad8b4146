"""Save attention maps of many images, one file per photo."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from captioner.caption import Caption
from captioner.errors import ConfigError
from captioner.files import replacing


class AttentionFolder:
    """A folder with one .npz file per photo, named after the photo: cat.jpg.npz.

    A file contains `words` (T,), `attention` (T, h, w), `log_probs` (T,), `caption` and the
    photo's absolute `path`. If photos in several folders have the same name, the second becomes
    cat.jpg-2.npz. Names that are too long are truncated. A file is only replaced by one for the
    same photo, also in later runs.

    Args:
        folder: The folder; created if missing.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._longest = _longest_name(self.folder)
        self._files: dict[str, Path] = {}  # the files found so far, by photo
        self._numbers: dict[str, Iterator[int]] = {}  # by name: the numbers of files not read yet

    def save(self, path: str | os.PathLike[str] | None, caption: Caption) -> Path:
        """Save the attention of a caption.

        Args:
            path: The photo's path; None for a photo without one, which gets a new file each time:
                stdin.npz.
            caption: Its best caption.

        Returns:
            The file.

        Raises:
            ConfigError: The model has no attention.
        """
        if caption.attention is None:
            raise ConfigError(
                "This model has no attention to save. Use captioner explain --method occlusion to"
                " see which parts of a photo its words depend on."
            )
        photo = None if path is None else os.path.abspath(path)
        file = self._file_of(photo)
        with replacing(file) as partial, partial.open("wb") as opened:
            np.savez_compressed(
                opened,
                words=np.array(caption.words),
                attention=caption.attention,
                log_probs=np.array(caption.word_log_probs),
                caption=np.array(caption.text),
                path=np.array(photo or ""),
            )
        return file

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Return whether the attention of a photo has been saved, now or in an earlier run."""
        return self._file_of(os.path.abspath(path)).exists()

    def _file_of(self, photo: str | None) -> Path:
        """Return the photo's file, or reserve the first free one of its name."""
        if photo is not None and photo in self._files:
            return self._files[photo]
        name = self._cut(os.path.basename(photo or "stdin"))
        for number in self._numbers.setdefault(name, count(1)):
            file = self.folder / (f"{name}.npz" if number == 1 else f"{name}-{number}.npz")
            owner = _owner(file) if file.exists() else photo
            if owner is not None:
                self._files.setdefault(owner, file)
            if owner == photo and (photo is not None or not file.exists()):
                return file
        raise AssertionError

    def _cut(self, name: str) -> str:
        """Truncate a name, between characters, so that it fits the file system with a suffix."""
        while len(os.fsencode(name)) > self._longest - len("-1000000.npz"):
            name = name[:-1]
        return name


def _longest_name(folder: Path) -> int:
    """Return the maximum length of a file name in bytes."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows
        return 255


def _owner(file: Path) -> str | None:
    """Return the path of a file's photo; None if the file doesn't contain it."""
    try:
        with np.load(file) as arrays:
            return str(arrays["path"])
    except Exception:  # damaged or foreign files raise anything
        return None
