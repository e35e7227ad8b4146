"""Which images are held out, and which make up each batch of each epoch, for each process that trains with others.

Everything follows from the seed and the epoch, so a resumed run goes on in the middle of an epoch with the very batch
that was next, and several processes share out the batches that one would have.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from captioner.errors import ConfigError

Key = tuple[int, int]  # (epoch, index of a record), what a `CaptionDataset` is asked for


@dataclass(frozen=True)
class Replay:
    """Earlier data that is mixed into training, so that what was learned from it is not forgotten.

    Args:
        annotations: Its annotations, as for `data.train`; null for none.
        images: The folder of its images.
        share: Share of an epoch's images that comes from it, another part of it in each epoch.
    """

    annotations: Path | None = None
    images: Path | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"data.replay.share is {self.share}; expected a share from 0 to below 1.")

    def beside(self, fresh: int) -> int:
        """How many earlier images an epoch has beside its new ones."""
        return round(fresh * self.share / (1 - self.share))


class TrainingBatches(Sampler[list[Key]]):
    """The shuffled training batches of one process.

    Args:
        count: How many images there are. The last ones of an epoch that make no whole batch are left out of it, unless
            there is no whole batch at all.
        batch_size: Images a batch of this process.
        epoch: Says which epoch it is.
        replayed: How many of the last images are earlier data, of which each epoch sees another part.
        replay: How many of those an epoch sees.
        seed: Of the order.
        rank: Which of the processes this is.
        ranks: How many processes train together.
        resumed: The epoch, and how many of its batches the run that is resumed has trained.

    Raises:
        ConfigError: There are more processes than images.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        epoch: Callable[[], int],
        *,
        replayed: int = 0,
        replay: int = 0,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        resumed: tuple[int, int] = (0, 0),
    ) -> None:
        self.fresh, self.replayed, self.replay = count - replayed, replayed, replay
        self.step = min(batch_size * ranks, self.fresh + replay)  # images of all processes
        self.epoch = epoch
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.resumed = resumed
        if self.step < ranks:
            raise ConfigError(f"{ranks} processes cannot share {self.step} training images; start fewer.")

    def __len__(self) -> int:
        return (self.fresh + self.replay) // self.step

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch()
        order = self.order(epoch)
        first = self.resumed[1] if epoch == self.resumed[0] else 0
        for start in range(first * self.step, len(self) * self.step, self.step):
            yield [(epoch, int(index)) for index in order[start : start + self.step][self.rank :: self.ranks]]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch's images, in its order."""
        rng = np.random.default_rng((self.seed, epoch))
        replay = self.fresh + rng.choice(self.replayed, self.replay, replace=False)
        return rng.permutation(np.concatenate([np.arange(self.fresh), replay]))


class ValidationBatches(Sampler[list[Key]]):
    """The batches of one process, in order: together, the processes see every image once.

    A process that is left without an image has an empty batch, so that all of them validate together.

    Args:
        count: How many images there are.
        batch_size: Images a batch of this process.
        epoch: Says which epoch it is.
        rank: Which of the processes this is.
        ranks: How many processes there are.
    """

    def __init__(self, count: int, batch_size: int, epoch: Callable[[], int], *, rank: int = 0, ranks: int = 1) -> None:
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
    """Which images validation gets where there is no other split.

    A hash of its name says on which side an image is: the same in every run and order, and hardly ever another when
    images are added.

    Args:
        names: What the images are called.
        share: How many are held out: this share of them, rounded, but two at least, for of a single image CIDEr-D is
            always 0; all if there are no more.

    Returns:
        Their indices.
    """
    order = sorted(range(len(names)), key=lambda index: hashlib.sha256(f"{names[index]}".encode()).digest())
    return frozenset(order[: max(2, round(share * len(names)))])
