"""Progress of epochs and validations as log lines, for runs without a progress bar."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from captioner.progress import ProgressLines

logger = logging.getLogger(__name__)


class TellProgress(Callback):
    """Log a line per minute, on the first process only."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from where a run resumed in mid-epoch stopped: that epoch doesn't start again."""
        self._begin_epoch(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting an epoch's batches."""
        self._begin_epoch(trainer, 0)

    def _begin_epoch(self, trainer: Trainer, done: int) -> None:
        total = int(trainer.num_training_batches)
        self._epoch = ProgressLines(
            f"Epoch {trainer.current_epoch}", total, "batches", logger.info, done=done
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the epoch's progress."""
        self._epoch.at(batch_idx + 1)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting the batches of a validation."""
        batches = (
            trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        )
        what = (
            "Before training"
            if trainer.sanity_checking
            else f"Validation of epoch {trainer.current_epoch}"
        )
        self._validation = ProgressLines(what, int(batches[0]), "batches", logger.info)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the validation's progress."""
        self._validation.at(batch_idx + 1)
