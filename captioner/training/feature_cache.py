"""Region features of a frozen encoder, computed once and memory-mapped.

While the encoder is frozen, an image has the same features in every epoch, so they are computed
once, optionally in several augmented views. The cache folder is named by a hash of the encoder's
weights, its grid, the precision and the preprocessing, so stale features are never reused. In it,
each view of each image has a key: a hash of the image's file, the augmentation, the seed, the view,
and whether it is mirrored. Features therefore belong to images: a run with other sources, captions
or views reuses the features that it finds and computes only the rest.

The folder holds parts, pairs of files: features and their keys. Parts are written atomically, so an
incomplete part is never read. If two processes need the same features, one computes them while the
other waits. An image that cannot be read has NaN, and its key is marked: the next run tries again,
as what was missing may have been permission or a package rather than the image.
"""

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from captioner.data.dataset import Features
from captioner.data.features import LoadViews
from captioner.data.sampling import Key
from captioner.data.views import ImageViews
from captioner.errors import DataError
from captioner.model.encoder import Encoder
from captioner.progress import ProgressLines
from captioner.stopping import stop_at_once
from captioner.training.distillation import JointEncoder, Teachers
from captioner.training.fast_encoder import Encode, fastest_encode

logger = logging.getLogger(__name__)

PART = 1024  # images per part at most, which limits the loss at an interruption

Place = tuple[int, int]  # index of a part, and row in it
_UNREADABLE = b"!"  # before the key of an image that could not be read


class FeatureCache:
    """A `FeatureSource` that computes the features of a model in training, or reads its cache.

    Args:
        encoder: The model's encoder, frozen before the epoch `until`.
        until: The first epoch in which the encoder trains; None if it never does.
        teachers: Teachers, whose features of training images are cached too; None without.
        precision: The context in which encoders run, such as autocast.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        until: int | None = None,
        teachers: Teachers | None = None,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.encoder = encoder
        self.until = until
        self.teachers = teachers
        self.precision = precision

    def compute(
        self, views: ImageViews, load: LoadViews, *, folder: Path, training: bool
    ) -> Features:
        """Compute the features of a set of images; for training images, also the teachers'.

        Raises:
            ConfigError: A teacher's grid differs.
            DataError: The disk is full or not writable.
        """
        encoder = (
            self.teachers.join(self.encoder)
            if self.teachers is not None and training
            else self.encoder
        )
        with self.precision():
            return cached_features(folder, encoder, views, load)


def cached_features(
    folder: Path, encoder: Encoder | JointEncoder, views: ImageViews, load: LoadViews
) -> Features:
    """Read the region features of images from the cache; compute and add the missing ones.

    Args:
        folder: The folder that contains the caches.
        encoder: The frozen encoder, on any device.
        views: N images, in one view or several.
        load: Loads some of their views; images that it skips get NaN, and are tried again by the
            next run.

    Raises:
        DataError: The disk is full or not writable.
    """
    try:
        keys = [
            [_key(views, view, index) for index in range(len(views))] for view in range(views.count)
        ]
        place = folder / _circumstances(encoder, views)
        place.mkdir(parents=True, exist_ok=True)
        with stop_at_once(), FileLock(place / ".lock"):
            parts, known, unreadable = _read_parts(place)
            missing = [
                # photos that are listed twice are computed once
                list(
                    {
                        key: (view, index) for index, key in enumerate(row) if key not in known
                    }.items()
                )
                for view, row in enumerate(keys)
            ]
            count = sum(map(len, missing))
            if count:
                for leftover in place.glob("*.tmp"):  # of killed processes
                    leftover.unlink()
                _check_space(place, (count, _rows(encoder, views), encoder.width))
                logger.info(
                    "Computing the features of %d images (%d views in total) in %s",
                    len(views),
                    count,
                    place,
                )
                _write_parts(place, encoder, views, load, missing)
                parts, known, unreadable = _read_parts(place)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot write features ({error.strerror or error}). Free some space, choose"
            " another data.cache_folder, or lower data.cache_features."
        ) from error
    found = unreadable | known
    places = np.array([[found[key] for key in row] for row in keys], np.int32)
    used = np.unique(places[..., 0])
    places[..., 0] = np.searchsorted(used, places[..., 0])
    return Features([parts[part] for part in used], places)


def _read_parts(place: Path) -> tuple[list[Path], dict[bytes, Place], dict[bytes, Place]]:
    """Read the existing parts, the place of each key in them, and those of unreadable images."""
    parts = sorted(path for path in place.glob("*.npy") if path.with_suffix(".keys").is_file())
    known: dict[bytes, Place] = {}
    unreadable: dict[bytes, Place] = {}
    for part, path in enumerate(parts):
        for row, key in enumerate(path.with_suffix(".keys").read_bytes().split()):
            places = unreadable if key.startswith(_UNREADABLE) else known
            places[key.removeprefix(_UNREADABLE)] = part, row
    return parts, known, unreadable


def _check_space(folder: Path, shape: tuple[int, ...]) -> None:
    needed, free = 2 * int(np.prod(shape)), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB required, {free / 1e9:.1f} GB free")


def _write_parts(
    place: Path,
    encoder: Encoder | JointEncoder,
    views: ImageViews,
    load: LoadViews,
    missing: Sequence[Sequence[tuple[bytes, Key]]],
) -> None:
    """Compute the missing features of each view, part by part, and log the progress."""
    count, done = sum(map(len, missing)), 0
    training = encoder.training
    n_images = count * max(1, views.frames)
    encode = fastest_encode(encoder.eval(), views.preprocessing.size, n_images)
    unit = "images" if views.count == 1 else "views of images"
    lines = ProgressLines("Computing features", count, unit, logger.info)
    try:
        for row in missing:
            for start in range(0, len(row), PART):
                part = row[start : start + PART]
                shape = (len(part), _rows(encoder, views), encoder.width)
                _write_part(place, encode, shape, views, load, part, partial(_tell, lines, done))
                done += len(part)
    except (KeyboardInterrupt, SystemExit):
        logger.info(
            "Stopped; %s of %s are cached, and the next run continues from there.",
            f"{done:,}",
            f"{count:,}",
        )
        raise
    finally:
        encoder.train(training)


def _tell(lines: ProgressLines, before: int, n_images: int) -> None:
    lines.at(before + n_images)


def _write_part(
    place: Path,
    encode: Encode,
    shape: tuple[int, int, int],
    views: ImageViews,
    load: LoadViews,
    wanted: Sequence[tuple[bytes, Key]],
    tell: Callable[[int], None],
) -> None:
    """Compute features of one view into a new part; `tell` receives the number of images done."""
    keys = [key for key, _ in wanted]
    path = place / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:24]}.npy"
    temporary = path.with_suffix(".tmp")
    try:
        batches = load(views, [where for _, where in wanted])
        unreadable = _compute(
            temporary, encode, shape, batches, [index for _, (_, index) in wanted], tell
        )
        marked = [_UNREADABLE * (row in unreadable) + key for row, key in enumerate(keys)]
        path.with_suffix(".keys").write_bytes(b"\n".join(marked))
        os.replace(temporary, path)  # last: without it, the keys don't count
    finally:
        temporary.unlink(missing_ok=True)


def _compute(
    path: Path,
    encode: Encode,
    shape: tuple[int, int, int],
    batches: Iterable[tuple[Tensor, Tensor]],
    wanted: Sequence[int],
    tell: Callable[[int], None],
) -> set[int]:
    """Compute features into a file, and return the rows of images that could not be read."""
    rows = {index: row for row, index in enumerate(wanted)}
    _, regions, width = shape
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()

        def write(row: int, one: NDArray[np.float16]) -> None:
            # Not through a memory map, where a full disk would kill the process.
            file.seek(start + row * 2 * regions * width)
            file.write(one.tobytes())

        for pixels, indices in batches:
            features = encode(pixels).reshape(len(pixels), regions, width)
            for index, one in zip(indices.tolist(), features, strict=True):
                write(rows.pop(index), one)
            tell(len(wanted) - len(rows))
        for row in rows.values():
            write(row, np.full((regions, width), np.nan, np.float16))
    return set(rows.values())


def _rows(encoder: Encoder | JointEncoder, views: ImageViews) -> int:
    """Return the number of region vectors of an image; for a clip, those of all frames."""
    return encoder.regions * max(1, views.frames)


def _key(views: ImageViews, view: int, index: int) -> bytes:
    return hashlib.sha256(repr(views.facts(view, index)).encode()).hexdigest()[:32].encode()


def _circumstances(encoder: Encoder | JointEncoder, views: ImageViews) -> str:
    """Hash the encoder, the precision and the preprocessing.

    Weights are rounded to float16, as in checkpoint folders: an encoder and its copy in such a
    folder have the same hash.
    """
    device = next(encoder.parameters()).device.type
    precision: bool | torch.dtype = torch.is_autocast_enabled(device)
    if precision and torch.get_autocast_dtype(device) != torch.bfloat16:
        precision = torch.get_autocast_dtype(device)  # older caches of bfloat16 stay valid
    digest = hashlib.sha256(repr((precision, encoder.grid, views.preprocessing)).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        if tensor.is_floating_point():  # skips BatchNorm's counts of batches
            digest.update(name.encode())
            digest.update(tensor.half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
