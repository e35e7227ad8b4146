"""Attention maps of many images into files, one a photo."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from captioner.caption import Caption
from captioner.errors import ConfigError
from captioner.files import replacing


class AttentionFolder:
    """A folder with an .npz file for each photo, named like the photo: cat.jpg.npz.

    A file holds `words` (T,), `attention` (T, h, w), `log_probs` (T,), `caption` and the absolute
    `path` of the photo. Of photos of the same name in several folders, the second becomes
    cat.jpg-2.npz. A name too long for that is cut. A file is replaced only by one of the same
    photo, also in later runs.

    Args:
        folder: Where; made if it isn't there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._longest = _longest_name(self.folder)
        self._files: dict[str, Path] = {}  # the file of each photo that is known to have one
        self._numbers: dict[
            str, Iterator[int]
        ] = {}  # by name: the numbers of files that were not looked at yet

    def save(self, path: str | os.PathLike[str] | None, caption: Caption) -> Path:
        """Save the attention of a caption.

        Args:
            path: The photo's path; None for one without, which gets a new file each time:
                stdin.npz.
            caption: Its caption, the best one if there are several.

        Returns:
            The file.

        Raises:
            ConfigError: The model has no attention.
        """
        if caption.attention is None:
            raise ConfigError(
                "This model has no attention to save. captioner explain --method occlusion shows in"
                " another way which parts of a photo its words depend on."
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
        """Whether the attention of a photo has been saved, now or in an earlier run."""
        return self._file_of(os.path.abspath(path)).exists()

    def _file_of(self, photo: str | None) -> Path:
        """The photo's own file, or the first of its name that is nobody's, which is kept for it."""
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
        """Cut a name that is longer than the file system takes with an end, between characters."""
        while len(os.fsencode(name)) > self._longest - len("-1000000.npz"):
            name = name[:-1]
        return name


def _longest_name(folder: Path) -> int:
    """How many bytes a name may have there."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows
        return 255


def _owner(file: Path) -> str | None:
    """The path of the photo that a file is of; None if it doesn't say."""
    try:
        with np.load(file) as arrays:
            return str(arrays["path"])
    except Exception:  # what is damaged, or something else, fails with anything
        return None
