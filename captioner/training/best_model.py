"""A run's best model as a checkpoint folder, `best/`."""

import copy
import logging
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from captioner.checkpoint import read_checkpoint
from captioner.export import export_onnx, save_checkpoint
from captioner.training.card import model_card
from captioner.training.lightning_module import CaptioningModule

logger = logging.getLogger(__name__)

FOLDER = "best"  # in the run's folder


def write_best(trainer: Trainer, module: CaptioningModule, checkpoint: str) -> None:
    """Write or replace the folder, without its ONNX files.

    Args:
        trainer: A trainer that has just validated; `best/` is written to its run's folder.
        module: The module whose network is saved.
        checkpoint: The Lightning checkpoint with the validated weights: the averaged ones if
            weight averaging is on. Their average with the start is taken here.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    best = copy.deepcopy(module.network).cpu()
    best.load_state_dict(
        {name.removeprefix(prefix): saved[name] for name in saved if name.startswith(prefix)}
    )
    if module.start_average is not None:
        module.start_average.apply(best)
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
    """Export the ONNX files if asked to, and log where the folder is.

    Args:
        run: The run's folder.
        onnx: Whether to export the ONNX files.

    Returns:
        Whether the run has a `best/` folder.
    """
    folder = run / FOLDER
    if not folder.is_dir():
        return False
    if onnx:
        try:
            export_onnx(folder)
        except (KeyboardInterrupt, SystemExit):
            logger.info(
                "Stopped before the ONNX export was complete. To finish it: captioner export %s",
                folder,
            )
            raise
    operand = "CLIP" if read_checkpoint(folder).frames else "PHOTO"
    logger.info(
        "The best model is in %s. Try it: captioner caption %s --model %s", folder, operand, folder
    )
    return True
