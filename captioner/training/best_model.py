"""A run's best model as a checkpoint folder, `best/`."""

import copy
import logging
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from captioner.export import export_onnx, save_checkpoint
from captioner.training.card import model_card
from captioner.training.lightning_module import CaptioningModule

logger = logging.getLogger(__name__)

FOLDER = "best"  # in the run's folder


def write_best(trainer: Trainer, module: CaptioningModule, checkpoint: str) -> None:
    """Write the folder anew, without its ONNX pair.

    Args:
        trainer: Just validated; its run's folder gets the folder.
        module: Whose network it is.
        checkpoint: Lightning's checkpoint that has the weights that were validated: the averaged
            ones, if weights are averaged.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    best = copy.deepcopy(module.network).cpu()
    best.load_state_dict(
        {name.removeprefix(prefix): saved[name] for name in saved if name.startswith(prefix)}
    )
    save_checkpoint(
        Path(trainer.default_root_dir) / FOLDER,
        best,
        vocabulary=module.vocabulary,
        preprocessing=module.preprocessing,
        decoding=module.decoding,
        card=model_card(module, trainer),
        onnx=False,
    )


def finish_best(run: Path, *, onnx: bool) -> bool:
    """Add the ONNX pair if that is asked for, and say where the folder is; False if there is none."""
    folder = run / FOLDER
    if not folder.is_dir():
        return False
    if onnx:
        try:
            export_onnx(folder)
        except (KeyboardInterrupt, SystemExit):
            logger.info(
                "Stopped before the ONNX pair was whole. It is written by: captioner export %s",
                folder,
            )
            raise
    logger.info(
        "The best model is in %s. Try it: captioner caption PHOTO --model %s", folder, folder
    )
    return True
