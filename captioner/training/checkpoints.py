"""When a run saves its state: after epochs, every few minutes, and when it is interrupted."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from captioner.errors import ConfigError
from captioner.training.best_model import finish_best, write_best
from captioner.training.checkpoint_io import WholeCheckpointIO
from captioner.training.interrupts import Interrupts
from captioner.training.lightning_module import CaptioningModule
from captioner.training.resuming import CHECKPOINTS

logger = logging.getLogger(__name__)

SCORES = (*(f"val/BLEU-{n}" for n in range(1, 5)), "val/CIDEr-D")
BEFORE_VALIDATION = 60  # seconds of training that are worth a checkpoint before a long validation
PATIENCE = 10.0  # seconds that a validation may go on for after a signal
ASK_EVERY = 10  # steps: how often several processes agree on whether to save


class RunCheckpoints(ModelCheckpoint):
    """Lightning's checkpoints of the best and the last state, and the best one as a checkpoint folder.

    `checkpoints/last.ckpt` is what `--ckpt_path last` resumes. It is written after every epoch,
    every few minutes within one, and on Ctrl-C or a cluster's SIGTERM. The folder `best/` holds the
    averaged weights if weights are averaged: those that validation measured. It gets its ONNX pair
    when training ends, or from `captioner export`.

    Args:
        monitor: The metric that decides which epoch is the best.
        mode: Whether it is best at its "max" or its "min".
        every_minutes: How often the state is saved within an epoch; 0 saves after each step.
        onnx: Export the best model when training ends.

    Attributes:
        scores: The metrics that may decide.
    """

    scores: ClassVar[Sequence[str]] = SCORES

    def __init__(
        self,
        monitor: str = "val/CIDEr-D",
        mode: Literal["max", "min"] = "max",
        every_minutes: float = 5.0,
        onnx: bool = True,
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            filename="best",
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.every_minutes = every_minutes
        self.onnx = onnx
        self._interrupts = Interrupts()
        self._saved = time.monotonic()
        self._saved_step = -1
        self._validating = self._saved
        if every_minutes < 0 or monitor not in self.scores:
            raise ConfigError(
                f"checkpoint.monitor is {monitor} and every_minutes {every_minutes}; expected one"
                f" of {', '.join(self.scores)}, and 0 or more."
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let all checkpoints be written whole or not at all."""
        self.dirpath = str(Path(trainer.default_root_dir) / CHECKPOINTS)
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = WholeCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Heed Ctrl-C and SIGTERM from now on: before, there is nothing to save, and they end the run at once."""
        super().on_train_start(trainer, pl_module)
        self._saved = time.monotonic()
        self._interrupts.heed()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to, or if training is to stop.

        Not after an epoch's last step, whose validation would be left out when the run is resumed,
        and not between steps whose gradients are being accumulated.
        """
        done, steps, each = (
            batch_idx + 1,
            int(trainer.num_training_batches),
            trainer.accumulate_grad_batches,
        )
        if done % each or done >= steps:
            return
        stop, seconds = bool(self._interrupts), time.monotonic() - self._saved
        last = done + each >= steps
        wanted = (
            stop or seconds >= 60 * self.every_minutes or (last and seconds >= BEFORE_VALIDATION)
        )
        if trainer.world_size > 1:  # all processes save, or none
            if not last and done // each % ASK_EVERY:
                return
            wanted = trainer.strategy.reduce_boolean_decision(wanted, all=False)
            stop = wanted and trainer.strategy.reduce_boolean_decision(stop, all=False)
        if wanted:
            self._save_last(trainer)
        if stop:
            self._interrupts.stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        super().on_validation_start(trainer, pl_module)
        self._validating = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop a validation that is to stop and has long to go: it comes anew after the last minute of its epoch."""
        if not self._interrupts:
            return
        done, total = batch_idx + 1, int(trainer.num_val_batches[dataloader_idx])
        if (time.monotonic() - self._validating) / done * (total - done) > PATIENCE:
            self._interrupts.stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch, and write the folder anew when it is the best so far."""
        if trainer.sanity_checking:
            return
        before = self.best_model_score
        super().on_validation_end(trainer, pl_module)
        if self.best_model_score is not before and trainer.is_global_zero:
            self.write_best(trainer, pl_module)
        self._save_last(
            trainer
        )  # after the folder: whoever resumes it has the folder that it speaks of
        if trainer.strategy.reduce_boolean_decision(bool(self._interrupts), all=False):
            self._interrupts.stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save an epoch that was not validated."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._saved_step != trainer.global_step:
            self._save_last(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best score wherever the run's folder is now."""

        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else path

        keys = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {key: here(state_dict[key]) for key in keys}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Say how to go on after an interruption."""
        if isinstance(exception, (KeyboardInterrupt, SystemExit)):
            path = self._last_path()
            how = (
                f"{path} is saved; --ckpt_path last goes on from it"
                if path.is_file()
                else "nothing is saved yet"
            )
            logger.info("Interrupted in epoch %d; %s.", trainer.current_epoch, how)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave signals to whoever heeded them before."""
        self._interrupts.ignore()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the ONNX pair to the folder, if nothing has asked to stop; that ends this at once, too."""
        self._interrupts.ignore()
        if self._interrupts:
            self._interrupts.stop()
        if trainer.is_global_zero and not self.finish_best(trainer, pl_module):
            logger.warning(
                "No validation took place, so there is no best model; %s has the weights.",
                self._last_path(),
            )

    def write_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the result of a run anew, of the best checkpoint, without what takes long."""
        assert isinstance(pl_module, CaptioningModule)
        write_best(trainer, pl_module, self.best_model_path)

    def finish_best(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Complete the result when training ends, and say where it is; False if there is none."""
        return finish_best(Path(trainer.default_root_dir), onnx=self.onnx)

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trainer.save_checkpoint(self._last_path())
        self._saved, self._saved_step = time.monotonic(), trainer.global_step

    def _last_path(self) -> Path:
        return Path(self.dirpath or "") / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
