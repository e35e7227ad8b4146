"""A file of features that is being computed: what it has is kept, and the next start goes on with the rest."""

import io
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from captioner.data.dataset import CaptionDataset, Example

SYNC_EVERY = 5.0  # seconds: what a machine that loses its power has computed in vain


class PartialFeatures:
    """The file, with a record beside it of what it has.

    The record speaks only of what the disk has. Numbers are written as to any file rather than through a memory map:
    there, a full disk would kill the process.

    Args:
        path: The file, named `.tmp` until it is whole.
        shape: (views, N, L, D).

    Attributes:
        done: (views, N): of which images it has the features.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        self.path, self.shape = path, shape
        self._record = path.with_suffix(".done")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
        self._header = header.getvalue()
        self._image = 2 * shape[2] * shape[3]  # bytes
        self.done = self._read_record()
        self._synced = time.monotonic()

    @property
    def missing_bytes(self) -> int:
        """How much is still to be written."""
        return int((~self.done).sum()) * self._image

    def __enter__(self) -> "PartialFeatures":
        """Open the file; begin it anew if there is no record of it."""
        self._file = self.path.open("r+b" if self.done.any() else "wb")
        self._file.write(self._header)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Close the file, with a record of all that it has, whatever ended the computing."""
        with self._file:
            self._sync()

    def left(self, view: int) -> list[int]:
        """Which images of a view are still to do."""
        return [int(index) for index in np.flatnonzero(~self.done[view])]

    def put(self, view: int, indices: Iterable[int], features: Iterable[NDArray[np.float16]]) -> None:
        """Write the features (L, D) of some images."""
        for index, one in zip(indices, features, strict=True):
            self._write(view, index, one)
            self.done[view, index] = True
        if time.monotonic() - self._synced >= SYNC_EVERY:
            self._sync()

    def leave_out(self, view: int) -> None:
        """Write NaN for what is left of a view: images that cannot be read."""
        for index in self.left(view):
            self._write(view, index, np.full(self.shape[2:], np.nan, np.float16))

    def finish(self, path: Path) -> None:
        """Give the whole file its name."""
        os.replace(self.path, path)
        self._record.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it with its record."""
        for path in (self._record, self.path):
            path.unlink(missing_ok=True)

    def _read_record(self) -> NDArray[np.bool_]:
        size = self.shape[0] * self.shape[1]
        try:
            record = self._record.read_bytes()
            with self.path.open("rb") as file:
                if len(record) == size and file.read(len(self._header)) == self._header:
                    return np.frombuffer(record, np.bool_).reshape(self.shape[:2]).copy()
        except FileNotFoundError:
            pass
        return np.zeros(self.shape[:2], np.bool_)

    def _write(self, view: int, index: int, features: NDArray[np.float16]) -> None:
        self._file.seek(len(self._header) + (view * self.shape[1] + index) * self._image)
        self._file.write(features.tobytes())

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._record.write_bytes(self.done.tobytes())
        self._synced = time.monotonic()


class RestOfImages(CaptionDataset):
    """The images of a data set that are still to do, under the numbers that they have in it.

    Args:
        whole: The data set.
        left: Which of its images.
    """

    def __init__(self, whole: CaptionDataset, left: Sequence[int]) -> None:
        vars(self).update(vars(whole))
        self.whole, self.left = whole, left

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, position = key
        return self.whole[epoch, self.left[position]]
