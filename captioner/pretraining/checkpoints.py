"""Save a run's state, and its best encoder as a weights file."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from lightning.pytorch import LightningModule, Trainer

from captioner.model.own_weights import save_pretrained
from captioner.model.pretrained import fitting, read_state
from captioner.pretraining.datamodule import PretrainingData
from captioner.pretraining.module import PretrainingModule
from captioner.pretraining.network import new_network, scores
from captioner.training.checkpoints import RunCheckpoints

logger = logging.getLogger(__name__)

ENCODER = "encoder.safetensors"  # in the run's folder


class PretrainingCheckpoints(RunCheckpoints):
    """Saves Lightning checkpoints of the best and the last state, and the best weights as a file.

    `--ckpt_path last` resumes from `checkpoints/last.ckpt`. `encoder.safetensors` holds the
    averaged weights if weights are averaged. When training ends, they are tested on the test split,
    if there is one.

    Args:
        monitor: The metric that selects the best epoch.
        mode: Whether the "max" or the "min" of the metric is best.
        every_minutes: The interval of saving the state within an epoch; 0 saves after each step.
    """

    scores: ClassVar[Sequence[str]] = ("val/accuracy",)

    def __init__(
        self,
        monitor: str = "val/accuracy",
        mode: Literal["max", "min"] = "max",
        every_minutes: float = 5.0,
    ) -> None:
        super().__init__(monitor, mode, every_minutes, onnx=False)

    def validated(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """Return nothing: resumed runs compare accuracies, whatever the validation images are."""
        return ""

    def write_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rewrite the file from the best checkpoint."""
        assert isinstance(pl_module, PretrainingModule)
        self._write(trainer, pl_module, {})

    def finish_best(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Test the weights in the file, and log its path; return False if there is none."""
        assert isinstance(pl_module, PretrainingModule)
        path = Path(trainer.default_root_dir) / ENCODER
        if not path.is_file():
            return False
        reached = f"validation accuracy {100 * self._best():.2f} %"
        tested = _test(trainer, pl_module, path) if pl_module.classes else None
        if tested is not None:
            self._write(trainer, pl_module, {"test/accuracy": tested})
            reached += f", test accuracy {100 * tested:.2f} %"
        logger.info(
            "The encoder is in %s: %s. A captioner takes it: captioner train"
            " --model.encoder.name %s --model.weights %s",
            path,
            reached,
            pl_module.name,
            path,
        )
        return True

    def _best(self) -> float:
        return 0.0 if self.best_model_score is None else float(self.best_model_score)

    def _write(self, trainer: Trainer, module: PretrainingModule, more: dict[str, float]) -> None:
        saved = torch.load(self.best_model_path, map_location="cpu", weights_only=True)
        prefix = "network."
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in saved["state_dict"].items()
            if name.startswith(prefix)
        }
        save_pretrained(
            Path(trainer.default_root_dir) / ENCODER,
            module.portable_state(state),
            module.facts({"val/accuracy": self._best(), **more}),
        )


def _test(trainer: Trainer, module: PretrainingModule, path: Path) -> float | None:
    """Return the accuracy of weights in a file on the test images; None without test images."""
    data = PretrainingData.of(trainer)
    batches = data.test_batches()
    if batches is None:
        return None
    network = new_network(module.name, module.preprocessing.size, len(module.classes))
    network.load_state_dict(fitting(network, module.name, read_state(path), str(path)))
    device = trainer.strategy.root_device
    network.to(device).eval()
    right = count = 0
    with torch.inference_mode():
        for batch in batches:
            ready = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
            if len(ready.labels):
                found = scores(network, ready.images.to(device)).argmax(1).cpu()
                right += int((found == ready.labels).sum())
                count += len(found)
    return right / count if count else None
