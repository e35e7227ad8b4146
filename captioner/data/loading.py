"""Load batches: images in worker processes, cached features in the training process."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from captioner.data.dataset import Batch, CaptionDataset, Example, collate
from captioner.data.sampling import Key, TrainingBatches, ValidationBatches
from captioner.data.views import ImageViews


class StagedLoader:
    """Load features, while there are some, in the training process, where it is faster.

    Args:
        dataset: What is loaded.
        features: Loads its features.
        images: Loads its images.
        epoch: Says which epoch it is.
    """

    def __init__(
        self,
        dataset: CaptionDataset,
        features: DataLoader[Example],
        images: DataLoader[Example],
        epoch: Callable[[], int],
    ) -> None:
        self.dataset, self.features, self.images, self.epoch = dataset, features, images, epoch

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.features if self.dataset.has_features(self.epoch()) else self.images)


class Loaders:
    """Makes the loaders of a run, whose processes live as long as it does, and ends these.

    Args:
        workers: Processes that load images for one loader; 0 loads in the training process.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._made: WeakSet[DataLoader[Any]] = WeakSet()

    def load(
        self, dataset: CaptionDataset, batches: TrainingBatches | ValidationBatches
    ) -> DataLoader[Example] | StagedLoader:
        """A loader of a data set's batches."""
        images = self.make(dataset, batches, self.workers)
        if dataset.features is None or not self.workers:
            return images
        return StagedLoader(dataset, self.make(dataset, batches, 0), images, batches.epoch)

    def load_views(
        self, views: ImageViews, keys: Sequence[Key], batch_size: int
    ) -> DataLoader[Example]:
        """A loader of views of images, in the order of their keys."""
        batches = [
            list(keys[start : start + batch_size]) for start in range(0, len(keys), batch_size)
        ]
        return self.make(views, batches, self.workers)

    def make(
        self,
        dataset: Dataset[Any],
        batches: Iterable[list[Key]],
        workers: int,
        into_batch: Callable[[Sequence[Any]], Any] = collate,
    ) -> DataLoader[Any]:
        """Make a loader for a data set indexed by keys; its workers live as long as the run."""
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=into_batch,
            worker_init_fn=ignore_interrupts,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        self._made.add(loader)
        return loader

    def end(self) -> None:
        """End the processes."""
        for loader in self._made:
            if isinstance(loader._iterator, _MultiProcessingDataLoaderIter):
                loader._iterator._shutdown_workers()
            loader._iterator = None


def ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker process, so that training can finish its step.

    At exit, Python ends its child processes by SIGTERM and waits for them, so workers must be ended
    before.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
