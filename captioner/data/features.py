"""Region features of a frozen encoder, computed once and memory-mapped.

While the encoder is frozen, an image gives the same features in every epoch, so they are computed once, in several
augmented views if asked. They are kept in a file named by a hash of everything they depend on: the encoder's weights
and architecture, the preprocessing, the augmentation, the images and the number of views. A file of other
circumstances is never found; one that was cut short was never named.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.data.dataset import CaptionDataset, speaks_of_sides
from captioner.model.encoder import Encoder

logger = logging.getLogger(__name__)

Batches = Iterable[tuple[Tensor, Tensor]]  # of pixels (B, 3, S, S), and of which records they are (B,)


def cached_features(
    folder: Path, encoder: Encoder, views: list[CaptionDataset], load: Callable[[CaptionDataset], Batches]
) -> NDArray[np.float16]:
    """The region features of a split, from the cache or computed into it.

    Args:
        folder: Where the caches are kept.
        encoder: The frozen encoder, on any device.
        views: One data set for each view: the same images, varied differently.
        load: How batches of a data set are loaded.

    Returns:
        (views, N, L, D), memory-mapped.
    """
    path = folder / f"{_key(encoder, views)}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("Computing the features of %d images in %d views into %s", len(views[0]), len(views), path)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            _compute(temporary, encoder, views, load)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _compute(
    path: Path, encoder: Encoder, views: list[CaptionDataset], load: Callable[[CaptionDataset], Batches]
) -> None:
    shape = (len(views), len(views[0]), encoder.regions, encoder.width)
    features = np.lib.format.open_memmap(path, "w+", dtype=np.float16, shape=shape)
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    with torch.inference_mode():
        for view, dataset in enumerate(views):
            for pixels, indices in load(dataset):
                features[view, indices.numpy()] = encoder(pixels.to(device)).half().cpu().numpy()
    encoder.train(training)
    features.flush()


def _key(encoder: Encoder, views: list[CaptionDataset]) -> str:
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
