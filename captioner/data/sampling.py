"""Hold out validation images, and sample the batches of each epoch and process.

Everything depends only on the seed and the epoch. So a run resumed in mid-epoch continues with
exactly the next batch, and several processes divide the batches that one process would have.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from captioner.errors import ConfigError

_GOLDEN = (5**0.5 - 1) / 2
Key = tuple[int, ...]
"""The key of a `CaptionDataset`: the epoch, the index of a record and, from its second draw in the
epoch on, the number of its draws before."""


@dataclass(frozen=True)
class Draws:
    """How often the images of a source are drawn.

    Args:
        count: The number of images of the source.
        an_epoch: The number of images drawn per epoch. Each epoch takes the next images of a
            shuffled order, and goes on from its beginning at its end, so no image is repeated
            before all have been drawn.
        weights: (count,) how often to draw each image, in proportion; then each is drawn as often
            as its share of `an_epoch`, rounded up or down. None draws all alike.
    """

    count: int
    an_epoch: int
    weights: NDArray[np.float64] | None = None

    def of(self, epoch: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
        """Return the indices of an epoch's images, ascending."""
        order = np.random.default_rng(seed).permutation(self.count)
        if self.weights is not None:
            # Systematic sampling: images lie in the shuffled order on a line, each as long as its
            # share, and those at every 1 from a start between 0 and 1 are drawn. The starts of
            # successive epochs divide that range evenly.
            ends = np.cumsum(self.weights[order])
            start = (np.random.default_rng((*seed, 1)).random() + epoch * _GOLDEN) % 1
            drawn = np.arange(self.an_epoch) + start
            found = np.searchsorted(ends / ends[-1] * self.an_epoch, drawn, side="right")
            return np.sort(order[np.minimum(found, self.count - 1)])
        return np.sort(
            order[
                np.arange(epoch * self.an_epoch, (epoch + 1) * self.an_epoch) % max(1, self.count)
            ]
        )


class TrainingBatches(Sampler[list[Key]]):
    """The shuffled training batches of one process.

    Args:
        sources: The number of images of each source and of its draws per epoch. An incomplete last
            batch is dropped, unless it is the only one.
        batch_size: Images per batch of this process.
        epoch: Returns the current epoch.
        seed: The random seed of the order.
        rank: The rank of this process.
        ranks: The number of processes.
        resumed: The epoch of the resumed run, and the number of its batches already trained on.

    Raises:
        ConfigError: There are more processes than images.
    """

    def __init__(
        self,
        sources: Sequence[Draws],
        batch_size: int,
        epoch: Callable[[], int],
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        resumed: tuple[int, int] = (0, 0),
    ) -> None:
        self.sources = sources
        self.n_images = sum(source.an_epoch for source in sources)
        self.step = min(batch_size * ranks, self.n_images)  # images per step of all processes
        self.epoch = epoch
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.resumed = resumed
        if self.step < ranks:
            raise ConfigError(
                f"{ranks} processes cannot share {self.step} training images; start fewer."
            )

    def __len__(self) -> int:
        return self.n_images // self.step

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch()
        order = self.order(epoch)
        first = self.resumed[1] if epoch == self.resumed[0] else 0
        keys: list[Key] = [
            (epoch, index, before) if before else (epoch, index)
            for index, before in zip(order.tolist(), _draws_before(order).tolist(), strict=True)
        ]
        for start in range(first * self.step, len(self) * self.step, self.step):
            yield keys[start : start + self.step][self.rank :: self.ranks]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Compute the indices of an epoch's images, in order; sources' ranges are consecutive."""
        firsts = np.cumsum([0, *(source.count for source in self.sources)])
        drawn = [
            firsts[number] + source.of(epoch, (self.seed, number))
            for number, source in enumerate(self.sources)
        ]
        return np.random.default_rng((self.seed, epoch)).permutation(np.concatenate(drawn))


def _draws_before(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often each element of an array occurs before it."""
    places = np.argsort(order, kind="stable")
    _, firsts, counts = np.unique(order[places], return_index=True, return_counts=True)
    before = np.empty_like(order)
    before[places] = np.arange(len(order)) - np.repeat(firsts, counts)
    return before


class ValidationBatches(Sampler[list[Key]]):
    """The batches of one process, in order: together, the processes see every image once.

    Every process has at least one batch, which may be empty, so that all of them validate.

    Args:
        count: The number of images.
        batch_size: Images per batch of this process.
        epoch: Returns the current epoch.
        rank: The rank of this process.
        ranks: The number of processes.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        epoch: Callable[[], int],
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.indices = range(rank, count, ranks)
        self.batch_size = batch_size
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, -(-len(self.indices) // self.batch_size))

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch()
        for start in range(0, max(1, len(self.indices)), self.batch_size):
            yield [(epoch, index) for index in self.indices[start : start + self.batch_size]]


def hold_out(names: Sequence[object], share: float) -> frozenset[int]:
    """Choose the images for validation where there is no validation split.

    A hash of the image's name decides: the choice is the same in every run and order, and hardly
    changes when images are added. Images of the same name stay together.

    Args:
        names: The images' names; the clip's for parts of clips.
        share: Share of the images to hold out, rounded, but at least two, because CIDEr-D of a
            single image is always 0; all if there are no more. More are held out if the last one
            shares its name with others.

    Returns:
        Their indices.
    """
    order = sorted(
        range(len(names)), key=lambda index: hashlib.sha256(f"{names[index]}".encode()).digest()
    )
    count = max(2, round(share * len(names)))
    last = {names[index] for index in order[count - 1 : count]}
    return frozenset(order[:count]) | {index for index in order[count:] if names[index] in last}
