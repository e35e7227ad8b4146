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
    """Load features in the training process, where it is faster, and images in workers.

    Args:
        dataset: The data set.
        feature_loader: The loader of its features.
        image_loader: The loader of its images.
        epoch: Returns the current epoch.
    """

    def __init__(
        self,
        dataset: CaptionDataset,
        feature_loader: DataLoader[Example],
        image_loader: DataLoader[Example],
        epoch: Callable[[], int],
    ) -> None:
        self.dataset, self.epoch = dataset, epoch
        self.feature_loader, self.image_loader = feature_loader, image_loader

    def __len__(self) -> int:
        return len(self.image_loader)

    def __iter__(self) -> Iterator[Batch]:
        cached = self.dataset.has_features(self.epoch())
        return iter(self.feature_loader if cached else self.image_loader)


class Loaders:
    """Creates the loaders of a run, and stops their worker processes at its end.

    Args:
        workers: Worker processes per loader of images; 0 loads in the training process.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._made: WeakSet[DataLoader[Any]] = WeakSet()

    def load(
        self, dataset: CaptionDataset, batches: TrainingBatches | ValidationBatches
    ) -> DataLoader[Example] | StagedLoader:
        """Create a loader of a data set's batches."""
        image_loader = self.make(dataset, batches, self.workers)
        if dataset.features is None or not self.workers:
            return image_loader
        return StagedLoader(dataset, self.make(dataset, batches, 0), image_loader, batches.epoch)

    def load_views(
        self, views: ImageViews, keys: Sequence[Key], batch_size: int
    ) -> DataLoader[Example]:
        """Create a loader of views of images, in the order of their keys."""
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
        """Create a loader of a data set indexed by keys; its workers live as long as the run."""
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
        """Stop the worker processes."""
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
