"""Save the state of a run: after epochs, every few minutes, and on interrupts."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from captioner.data.datamodule import CaptionData
from captioner.errors import ConfigError
from captioner.training.best_model import finish_best, write_best
from captioner.training.checkpoint_io import WholeCheckpointIO
from captioner.training.interrupts import Interrupts
from captioner.training.lightning_module import CaptioningModule
from captioner.training.resuming import CHECKPOINTS
from captioner.training.validation import fingerprint

logger = logging.getLogger(__name__)

SCORES = (*(f"val/BLEU-{n}" for n in range(1, 5)), "val/CIDEr-D")
BEFORE_VALIDATION = 60  # seconds of training worth saving before a long validation
PATIENCE = 10.0  # seconds that validation may continue after a signal
ASK_EVERY = 10  # steps between the processes' agreements on whether to save


class RunCheckpoints(ModelCheckpoint):
    """Save Lightning checkpoints of the best and last state, and the best one as a folder.

    `--ckpt_path last` resumes from `checkpoints/last.ckpt`. It is written after every epoch, every
    few minutes within one, and on Ctrl-C or a cluster's SIGTERM. The folder `best/` holds the
    weights that were validated: the averaged ones if weight averaging is on. Its ONNX files are
    written when training ends, or by `captioner export`.

    Args:
        monitor: The metric that selects the best epoch.
        mode: Whether the best value is the "max" or the "min".
        every_minutes: Minutes between saves within an epoch; 0 saves after each step.
        onnx: Export the best model when training ends.

    Attributes:
        scores: The metrics that can select the best epoch.
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
        self._validated = ""
        if every_minutes < 0 or monitor not in self.scores:
            raise ConfigError(
                f"checkpoint.monitor is {monitor} and every_minutes {every_minutes}; expected one"
                f" of {', '.join(self.scores)}, and 0 or more."
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write all checkpoints atomically."""
        self._validated = self.validated(trainer, pl_module)
        self.dirpath = str(Path(trainer.default_root_dir) / CHECKPOINTS)
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = WholeCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle Ctrl-C and SIGTERM from now on.

        Earlier there is nothing to save, so a signal ends the run at once.
        """
        super().on_train_start(trainer, pl_module)
        self._saved = time.monotonic()
        self._interrupts.heed()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a save is due or training must stop.

        Never save after an epoch's last step, because a resumed run would skip its validation, nor
        while gradients are being accumulated. Save after the last step of `trainer.max_steps`, so
        that a run that is resumed with more steps has the rest of this epoch.
        """
        done, steps, each = (
            batch_idx + 1,
            int(trainer.num_training_batches),
            trainer.accumulate_grad_batches,
        )
        if done % each or done >= steps:
            return
        stop, seconds = bool(self._interrupts), time.monotonic() - self._saved
        ends = 0 <= trainer.max_steps <= trainer.global_step
        last = ends or done + each >= steps
        wanted = (
            stop
            or ends
            or seconds >= 60 * self.every_minutes
            or (last and seconds >= BEFORE_VALIDATION)
        )
        if trainer.world_size > 1:  # either all processes save, or none
            if not last and done // each % ASK_EVERY:
                return
            wanted = trainer.strategy.reduce_boolean_decision(wanted, all=False)
            stop = wanted and trainer.strategy.reduce_boolean_decision(stop, all=False)
        if wanted:
            self._save_last(trainer)
        if stop:
            self._interrupts.stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the start time."""
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
        """After a signal, stop now if validation would still take long.

        A resumed run repeats the validation, after at most the last minute of its epoch.
        """
        if not self._interrupts:
            return
        done, total = batch_idx + 1, int(trainer.num_val_batches[dataloader_idx])
        if (time.monotonic() - self._validating) / done * (total - done) > PATIENCE:
            self._interrupts.stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch, and replace the best folder if this epoch is the best so far."""
        if trainer.sanity_checking:
            return
        before = self.best_model_score
        super().on_validation_end(trainer, pl_module)
        if self.best_model_score is not before and trainer.is_global_zero:
            self.write_best(trainer, pl_module)
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if done % trainer.accumulate_grad_batches and done < trainer.num_training_batches:
            return  # the next step saves, and stops after a signal
        self._save_last(
            trainer
        )  # after the folder, so that a resumed run finds the folder that its state refers to
        if trainer.strategy.reduce_boolean_decision(bool(self._interrupts), all=False):
            self._interrupts.stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save an epoch that was not validated."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._saved_step != trainer.global_step:
            self._save_last(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and what it is a score of."""
        return {**super().state_dict(), "validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, even if the run's folder has moved."""

        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else path

        keys = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {key: here(state_dict[key]) for key in keys}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Forget the best score if validation has changed; begin with the next epoch if it is due.

        With `trainer.max_steps`, after an epoch without validation, Lightning would take the
        batches of that epoch for those of the next one, which would be left out.
        """
        state = checkpoint["callbacks"].get(self.state_key, {})
        if state.get("validated", self._validated) != self._validated:
            logger.warning(
                "Validation has changed since the checkpoint (its data, or how images are"
                " captioned), so earlier scores don't count: the best epoch from now on will"
                " replace the best model."
            )
            state |= {"best_model_score": None, "best_model_path": "", "best_k_models": {}}
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
        if epochs["current"]["processed"] < epochs["current"]["started"]:
            return
        for progress in (epochs["current"], epochs["total"]):
            progress["completed"] = progress["processed"]
        batches |= {"current": dict.fromkeys(batches["current"], 0), "is_last_batch": False}

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Log how to resume after an interruption."""
        if isinstance(exception, (KeyboardInterrupt, SystemExit)):
            path = self._last_path()
            how = (
                f"{path} is saved; resume with --ckpt_path last"
                if path.is_file()
                else "nothing is saved yet"
            )
            logger.info("Interrupted in epoch %d; %s.", trainer.current_epoch, how)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        self._interrupts.ignore()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the ONNX files to the folder, unless a signal asked to stop.

        A signal during the export ends it at once.
        """
        self._interrupts.ignore()
        if self._interrupts:
            self._interrupts.stop()
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            logger.info("This was a trial (trainer.fast_dev_run): no weights are saved.")
        elif trainer.is_global_zero and not self.finish_best(trainer, pl_module):
            logger.warning(
                "No validation was run, so there is no best model; the weights are in %s.",
                self._last_path(),
            )

    def validated(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """Identify what the scores are of: those of a resumed run count if it is the same."""
        assert isinstance(pl_module, CaptioningModule)
        sets = CaptionData.of(trainer).validation_sets
        return fingerprint(sets, pl_module.decoding, trainer.limit_val_batches)

    def write_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write or replace the result of a run, without its slow parts."""
        assert isinstance(pl_module, CaptioningModule)
        write_best(trainer, pl_module, self.best_model_path)

    def finish_best(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Complete the result when training ends, and log its path; False if there is none."""
        return finish_best(Path(trainer.default_root_dir), onnx=self.onnx)

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trainer.save_checkpoint(self._last_path())
        self._saved, self._saved_step = time.monotonic(), trainer.global_step

    def _last_path(self) -> Path:
        return Path(self.dirpath or "") / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
