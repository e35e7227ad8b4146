"""What a run leaves behind: Lightning's checkpoints to resume from, and the best model as a checkpoint folder."""

import logging
from pathlib import Path

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


class RunCheckpoints(ModelCheckpoint):
    """Lightning's checkpoints of the best and the last epoch, and the best one as a checkpoint folder.

    `checkpoints/last.ckpt` is what `--ckpt_path last` resumes: it is written after every epoch. The folder `best/`
    holds the averaged weights if weights are averaged: those that validation measured. It gets its ONNX pair when
    training ends, or from `captioner export`.

    Args:
        monitor: The metric that decides which epoch is the best.
        mode: Whether it is best at its "max" or its "min".
    """

    def __init__(self, monitor: str = "val/CIDEr-D", mode: str = "max") -> None:
        super().__init__(
            monitor=monitor, mode=mode, filename="best", save_on_train_epoch_end=False, enable_version_counter=False
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch, and write the folder anew when it is the best so far."""
        if trainer.sanity_checking:
            return
        before = self.best_model_score
        super().on_validation_end(trainer, pl_module)
        trainer.save_checkpoint(self._last_path())
        if self.best_model_score is not before and trainer.is_global_zero:
            assert isinstance(pl_module, CaptioningModule)
            self._write_folder(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say how to go on after Ctrl-C or a cluster's SIGTERM.

        Nothing is saved here: an epoch that is resumed in its middle would not give what the uninterrupted one gives.
        """
        if isinstance(exception, (KeyboardInterrupt, SIGTERMException)):
            epoch = trainer.current_epoch
            how = "--ckpt_path last begins it again" if self._last_path().is_file() else "nothing is saved yet"
            logger.info("Interrupted in epoch %d; %s.", epoch, how)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the ONNX pair to the folder."""
        folder = Path(trainer.default_root_dir) / FOLDER
        if trainer.is_global_zero and folder.is_dir():
            export_onnx(folder)
            logger.info("The best model is in %s. Try it: captioner caption PHOTO --model %s", folder, folder)

    def _last_path(self) -> Path:
        return Path(self.dirpath or "") / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"

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
