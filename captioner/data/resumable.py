"""Batches that a run goes on with where it stopped, however many processes it has."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule

from captioner.data.loading import Loaders
from captioner.data.sampling import Draws, TrainingBatches, ValidationBatches
from captioner.errors import ConfigError


class ResumableData(LightningDataModule):
    """What data modules have in common: the batches, and how a resumed run finds the next.

    Args:
        batch_size: Images a batch, of each process where several train together.
        workers: Processes that load images, for each training process.
        seed: Of the order of images.
    """

    def __init__(self, batch_size: int, workers: int, seed: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self._loaders = Loaders(workers)

    def state_dict(self) -> dict[str, Any]:
        """What a run must be resumed with in the middle of an epoch: as many images a batch."""
        assert self.trainer is not None
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        within = 0 < done < self.trainer.num_training_batches
        return {"images": self.batch_size * self.trainer.world_size, "within": within}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on in the middle of an epoch with other batches.

        Raises:
            ConfigError: There are more or fewer images a batch.
        """
        assert self.trainer is not None
        images = self.batch_size * self.trainer.world_size
        if state_dict["within"] and state_dict["images"] != images:
            raise ConfigError(
                f"The run stopped within an epoch of batches of {state_dict['images']} images"
                f" (data.batch_size x processes), and would go on with {images}; go on with as"
                " many."
            )

    def teardown(self, stage: str) -> None:
        """End the loading processes."""
        self._loaders.end()

    def on_exception(self, exception: BaseException) -> None:
        """End the loading processes, which heed no signal."""
        self._loaders.end()

    def _training_batches(self, draws: Sequence[Draws]) -> TrainingBatches:
        """Shuffled batches; the first of a resumed run are those that it hasn't seen."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.ready if loop.restarting else 0
        return TrainingBatches(
            draws,
            self.batch_size,
            self._epoch,
            seed=self.seed,
            rank=self.trainer.global_rank,
            ranks=self.trainer.world_size,
            resumed=(self._epoch(), done),
        )

    def _validation_batches(self, count: int) -> ValidationBatches:
        """Batches of `count` images, in order."""
        assert self.trainer is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return ValidationBatches(count, self.batch_size, self._epoch, rank=rank, ranks=ranks)

    def _epoch(self) -> int:
        assert self.trainer is not None
        return 0 if self.trainer.overfit_batches else self.trainer.current_epoch  # type: ignore[attr-defined]
