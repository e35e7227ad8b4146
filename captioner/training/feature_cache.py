"""Region features of a frozen encoder, computed once and memory-mapped.

While the encoder is frozen, an image gives the same features in every epoch, so they are computed once, in several
augmented views if asked. They are kept in a file named by a hash of everything they depend on: the encoder's weights
and architecture, the preprocessing, the augmentation, the images and the number of views. A file of other
circumstances is never found; one that was cut short has no such name yet, and the next start goes on with it; and of
two processes that want the same file, one computes it while the other waits.
"""

import errno
import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from filelock import FileLock

from captioner.data.dataset import CaptionDataset, Features, speaks_of_sides
from captioner.data.features import LoadView
from captioner.errors import DataError
from captioner.model.encoder import Encoder
from captioner.progress import ProgressLines
from captioner.stopping import stop_at_once
from captioner.training.distillation import JointEncoder, Teachers
from captioner.training.partial_features import PartialFeatures, RestOfImages

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
        with stop_at_once(), FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                shape = (len(views), len(views[0]), encoder.regions, encoder.width)
                partial = PartialFeatures(path.with_suffix(".tmp"), shape)
                _check_space(folder, partial.missing_bytes)
                begun = f"; {partial.done.sum():,} are there already" if partial.done.any() else ""
                logger.info(
                    "Computing the features of %d images in %d views into %s%s", shape[1], shape[0], path, begun
                )
                try:
                    _compute(partial, encoder, views, load)
                    partial.finish(path)
                except OSError:
                    partial.remove()
                    raise
                except BaseException:
                    kept = f"{partial.done.sum():,} of {partial.done.size:,}"
                    logger.info("Stopped; %s are kept, and the next start goes on from there.", kept)
                    raise
    except OSError as error:
        raise DataError(
            f"{folder}: features cannot be written ({error.strerror or error}). Free some space, name another "
            "data.cache_folder, or lower data.cache_features."
        ) from error
    return Features(path)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"they need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def _compute(
    partial: PartialFeatures, encoder: Encoder | JointEncoder, views: Sequence[CaptionDataset], load: LoadView
) -> None:
    device = next(encoder.parameters()).device
    training = encoder.training
    total, done = partial.done.size, int(partial.done.sum())
    unit = "images" if len(views) == 1 else "views of images"
    lines = ProgressLines("Computing features", total, unit, logger.info, done=done)
    encoder.eval()
    try:
        with partial, torch.inference_mode():
            for view, dataset in enumerate(views):
                left = partial.left(view)
                if not left:
                    continue
                for pixels, indices in load(RestOfImages(dataset, left), view):
                    features = encoder(pixels.to(device)).half().cpu().numpy()  # (B, L, D)
                    partial.put(view, indices.tolist(), features)
                    lines.at(int(partial.done.sum()))
                partial.leave_out(view)
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
