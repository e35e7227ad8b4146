"""Region features of a frozen encoder, computed once and memory-mapped.

While the encoder is frozen, an image gives the same features in every epoch, so they are computed once, in several
augmented views if asked. They are kept in a file named by a hash of everything they depend on: the encoder's weights
and architecture, the preprocessing, the augmentation, the images and the number of views. A file of other
circumstances is never found; one that was cut short was never named; and of two processes that want the same file, one
computes it while the other waits.
"""

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from captioner.data.dataset import CaptionDataset, Features, speaks_of_sides
from captioner.data.features import LoadView
from captioner.errors import DataError
from captioner.model.encoder import Encoder
from captioner.training.distillation import JointEncoder, Teachers

logger = logging.getLogger(__name__)


class FeatureCache:
    """The features of a model that is trained, as its data module asks for them: a `FeatureSource`.

    Args:
        encoder: The model's encoder, frozen before the epoch `until`.
        until: The first epoch in which the encoder trains; None if it never does.
        teachers: Models that see the images that are trained on too; None for none.
        precision: The context under which encoders run, such as autocast.
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

    def compute(self, views: Sequence[CaptionDataset], load: LoadView, *, folder: Path, training: bool) -> Features:
        """The features of one set of images; of images to train on, the teachers' beside the model's own.

        Raises:
            ConfigError: A teacher divides images into other regions.
            DataError: The disk is full, or cannot be written.
        """
        encoder = self.teachers.join(self.encoder) if self.teachers is not None and training else self.encoder
        with self.precision():
            return cached_features(folder, encoder, views, load)


def cached_features(
    folder: Path, encoder: Encoder | JointEncoder, views: Sequence[CaptionDataset], load: LoadView
) -> Features:
    """The region features of a split, from the cache or computed into it.

    Args:
        folder: Where the caches are kept.
        encoder: The frozen encoder, on any device.
        views: One data set for each view: the same N images, varied differently.
        load: How batches of a data set are loaded, given which view it is; images that it leaves out get NaN.

    Raises:
        DataError: The disk is full, or cannot be written.
    """
    path = folder / f"{_key(encoder, views)}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                shape = (len(views), len(views[0]), encoder.regions, encoder.width)
                temporary = path.with_suffix(".tmp")
                temporary.unlink(missing_ok=True)  # what a process that was killed has left
                _check_space(folder, shape)
                logger.info("Computing the features of %d images in %d views into %s", shape[1], shape[0], path)
                try:
                    _compute(temporary, encoder, views, load)
                    os.replace(temporary, path)
                finally:
                    temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: features cannot be written ({error.strerror or error}). Free some space, name another "
            "data.cache_folder, or lower data.cache_features."
        ) from error
    return Features(path)


def _check_space(folder: Path, shape: tuple[int, ...]) -> None:
    needed, free = 2 * int(np.prod(shape)), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"they need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def _compute(path: Path, encoder: Encoder | JointEncoder, views: Sequence[CaptionDataset], load: LoadView) -> None:
    count, regions, width = len(views[0]), encoder.regions, encoder.width
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    try:
        with path.open("wb") as file, torch.inference_mode():
            header = {"descr": "<f2", "fortran_order": False, "shape": (len(views), count, regions, width)}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            size = 2 * regions * width  # bytes of an image
            for view, dataset in enumerate(views):
                missing = set(range(count))
                for pixels, indices in load(dataset, view):
                    features = encoder(pixels.to(device)).half().cpu().numpy()  # (B, L, D)
                    for index, one in zip(indices.tolist(), features, strict=True):
                        # Written as a file, not through a memory map: there, a full disk would kill the process.
                        file.seek(start + (view * count + index) * size)
                        file.write(one.tobytes())
                        missing.discard(index)
                for index in missing:
                    file.seek(start + (view * count + index) * size)
                    file.write(np.full((regions, width), np.nan, np.float16).tobytes())
    finally:
        encoder.train(training)


def _key(encoder: Encoder | JointEncoder, views: Sequence[CaptionDataset]) -> str:
    digest = hashlib.sha256(repr(torch.is_autocast_enabled(next(encoder.parameters()).device.type)).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    digest.update(repr((encoder.grid, [(view.preprocessing, view.augmentation, view.seed) for view in views])).encode())
    for record in views[0].records:
        stat = record.path.stat()
        facts = record.path.resolve(), stat.st_size, stat.st_mtime_ns, speaks_of_sides(record.captions)
        digest.update("\0".join(map(str, (*facts, ""))).encode())
    return digest.hexdigest()[:24]
