"""Resume a run with exactly the next batch, with any number of processes."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule

from captioner.data.loading import Loaders
from captioner.data.sampling import Draws, TrainingBatches, ValidationBatches
from captioner.errors import ConfigError


class ResumableData(LightningDataModule):
    """Base of the data modules: batches, and resuming in mid-epoch.

    Args:
        batch_size: Images per batch and process.
        workers: Worker processes that load images, per training process.
        seed: The random seed of the order of images.

    Raises:
        ConfigError: The seed is below 0, which numpy's generators refuse.
    """

    def __init__(self, batch_size: int, workers: int, seed: int) -> None:
        super().__init__()
        if seed < 0:
            raise ConfigError(f"data.seed is {seed}; expected 0 or more.")
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self._loaders = Loaders(workers)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of images per step; it must not change when resuming in mid-epoch."""
        assert self.trainer is not None
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        within = 0 < done < self.trainer.num_training_batches
        return {"images": self.batch_size * self.trainer.world_size, "within": within}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a run resumed in mid-epoch has the same number of images per step.

        Raises:
            ConfigError: The number differs.
        """
        assert self.trainer is not None
        n_images = self.batch_size * self.trainer.world_size
        if state_dict["within"] and state_dict["images"] != n_images:
            raise ConfigError(
                f"The run stopped in mid-epoch with {state_dict['images']} images per step"
                f" (data.batch_size x processes), but would resume with {n_images}. Use the same"
                " number."
            )

    def teardown(self, stage: str) -> None:
        """Stop the worker processes."""
        self._loaders.end()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the worker processes, which ignore signals."""
        self._loaders.end()

    def _training_batches(self, draws: Sequence[Draws]) -> TrainingBatches:
        """Create the shuffled training batches; a resumed run starts with the unseen ones."""
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
        """Create batches of `count` images, in order."""
        assert self.trainer is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return ValidationBatches(count, self.batch_size, self._epoch, rank=rank, ranks=ranks)

    def _epoch(self) -> int:
        assert self.trainer is not None
        return 0 if self.trainer.overfit_batches else self.trainer.current_epoch  # type: ignore[attr-defined]
