"""What a run leaves behind: Lightning's checkpoints to resume from, and the best model as a checkpoint folder."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from captioner.export import export_onnx, save_checkpoint
from captioner.model.captioning import CaptioningModel
from captioner.training.card import model_card
from captioner.training.module import CaptioningModule

logger = logging.getLogger(__name__)

FOLDER = "best"


class BestCheckpoint(ModelCheckpoint):
    """Lightning's checkpoints of the best and the last epoch, and the best one as a checkpoint folder.

    The folder holds the averaged weights if weights are averaged: those that validation measured. It gets its ONNX
    pair when training ends, or from `captioner export`.

    Args:
        monitor: The metric that decides.
        mode: "max" or "min".
        filename: Of the best checkpoint.
        save_last: Keep the last checkpoint too, to resume from.
        save_on_train_epoch_end: Save at the end of a training epoch, rather than once it is validated.
        enable_version_counter: Number the files instead of replacing them.
        **options: See Lightning's `ModelCheckpoint`.
    """

    def __init__(
        self,
        monitor: str | None = "val/CIDEr-D",
        mode: str = "max",
        filename: str | None = "best",
        save_last: bool | None = True,
        save_on_train_epoch_end: bool | None = False,
        enable_version_counter: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            filename=filename,
            save_last=save_last,
            save_on_train_epoch_end=save_on_train_epoch_end,
            enable_version_counter=enable_version_counter,
            **options,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder anew when this epoch is the best so far."""
        before = self.best_model_score
        super().on_validation_end(trainer, pl_module)
        if self.best_model_score is not before and trainer.is_global_zero:
            assert isinstance(pl_module, CaptioningModule)
            self._write_folder(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last checkpoint when training is interrupted, by Ctrl-C or by a cluster's SIGTERM."""
        if isinstance(exception, (KeyboardInterrupt, SIGTERMException)) and trainer.global_step and self.dirpath:
            path = Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
            trainer.save_checkpoint(path)
            logger.info("Interrupted in epoch %d. Resume with --ckpt_path last", trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the ONNX pair to the folder."""
        super().on_train_end(trainer, pl_module)
        folder = Path(trainer.default_root_dir) / FOLDER
        if trainer.is_global_zero and folder.is_dir():
            export_onnx(folder)
            logger.info("The best model is in %s. Try it: captioner caption PHOTO --model %s", folder, folder)

    def _write_folder(self, trainer: Trainer, module: CaptioningModule) -> None:
        saved = torch.load(self.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
        prefix = "network."
        best = CaptioningModel.from_architecture(
            module.network.architecture(),
            image_size=module.preprocessing.size,
            vocab_size=len(module.vocabulary),
        )
        best.load_state_dict({name.removeprefix(prefix): saved[name] for name in saved if name.startswith(prefix)})
        save_checkpoint(
            Path(trainer.default_root_dir) / FOLDER,
            best,
            vocabulary=module.vocabulary,
            preprocessing=module.preprocessing,
            decoding=module.decoding,
            card=model_card(module, trainer),
            onnx=False,
        )
