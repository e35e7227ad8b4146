"""The LightningModule of pretraining: training step, validation, optimizer."""

import logging
import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from captioner.errors import ConfigError
from captioner.model.classifier import head_names
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.own_weights import Pretrained
from captioner.model.pretrained import warn_of_preprocessing
from captioner.preprocessing import Preprocessing
from captioner.pretraining.dataset import LabelledBatch
from captioner.pretraining.methods import TURNS, Method, turned
from captioner.pretraining.network import new_network, scores
from captioner.pretraining.simsiam import (
    WIDTH,
    SimSiam,
    find_partners,
    join_views,
    simsiam_loss,
    spread,
)
from captioner.training.optimization import check_schedule, cosine_rate, parameter_groups
from captioner.training.seeding import seed_step

logger = logging.getLogger(__name__)

COLLAPSED = 0.1  # threshold of the spread of SimSiam's outputs, which is near 1 if healthy


class PretrainingModule(LightningModule):
    """Trains a classification network, which without its classifier is an encoder.

    Args:
        classes: The names of the classes; linked from the data.
        preprocessing: From image to pixels; linked from the data.
        encoder: The network's name: a classification CNN of torchvision, "timm/" and the name of a
            timm model, "plain_cnn" or "resnet20".
        weights: The initial weights: the name of torchvision's or timm's weights, a local
            `.safetensors` or `.pth` file, a checkpoint folder or "bundled" (to use its encoder), or
            null for random weights.
        method: "supervised" learns the classes; "rotation" learns to predict the rotation of each
            image, without labels (Gidaris et al. 2018); "simsiam" learns to match two views of an
            image, without labels (Chen and He 2021).
        learning_rate: The peak learning rate.
        weight_decay: The weight decay of AdamW, on matrices and kernels only.
        warmup_steps: Steps in which the learning rate rises from 0 to its peak; it then follows
            half a cosine.
        final_share: The final learning rate as a share of the peak.
        label_smoothing: The share of the probability that is spread over all classes (Szegedy et
            al. 2016); ignored by SimSiam.
        mixup: Alpha of the Beta distribution for mixing pairs of images and their labels (Zhang et
            al. 2018); 0 for none. Ignored by SimSiam.
    """

    def __init__(
        self,
        classes: list[str],
        preprocessing: Preprocessing,
        encoder: str = "resnet18",
        weights: str | None = None,
        method: Method = "supervised",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        final_share: float = 0.01,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        check_schedule(learning_rate, warmup_steps, final_share)
        if not 0 <= label_smoothing < 1 or not 0 <= mixup < math.inf:
            raise ConfigError(
                f"model.label_smoothing is {label_smoothing} and mixup {mixup}; expected a share"
                " from 0 to below 1, and 0 or more."
            )
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.name = encoder
        self.method = method
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.final_share = final_share
        self.label_smoothing = label_smoothing
        size = preprocessing.size
        outputs = {"supervised": len(classes), "rotation": TURNS, "simsiam": WIDTH}[method]
        Encoder(EncoderConfig(encoder), size)  # rejects early what no captioner could use
        self.network = new_network(encoder, size, outputs, weights)
        if weights is not None:
            warn_of_preprocessing(encoder, preprocessing, weights)
        self.simsiam = SimSiam() if method == "simsiam" else None
        mixes = mixup and self.simsiam is None
        self.mix = v2.MixUp(alpha=mixup, num_classes=outputs) if mixes else None
        self._counts = torch.zeros(3)  # of the validation: correct, total, sum of their spread

    def facts(self, reached: dict[str, float]) -> Pretrained:
        """Return the metadata of a weights file, with the scores reached."""
        return Pretrained(self.name, self.classes, self.preprocessing, reached)

    def portable_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the part of a state dict to save; without labels, this excludes the classifier."""
        left_out = frozenset() if self.classes else head_names(self.name, self.preprocessing.size)
        return {name: tensor for name, tensor in state.items() if name not in left_out}

    def on_train_batch_start(self, batch: LabelledBatch, batch_idx: int) -> None:
        """Seed the step, so that a resumed run continues identically."""
        seed_step(self, batch_idx)

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        if self.simsiam is not None:
            projections, predictions = self.simsiam(scores(self.network, join_views(batch.images)))
            loss = simsiam_loss(projections, predictions)
            self.log("train/std", spread(projections.detach()), batch_size=len(batch.images))
        else:
            images, labels = self._task(batch)
            if self.mix is not None:
                images, labels = self.mix(images, labels)
            output = scores(self.network, images)
            loss = cross_entropy(output, labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.images))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Reset the counts, and check that all weights are finite."""
        self._counts = torch.zeros(3, device=self.device)
        self._check_weights()

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        """Count correctly classified images; for SimSiam, views whose partner is the closest."""
        if not len(batch.labels):
            return
        if self.simsiam is not None:
            projections, _ = self.simsiam(scores(self.network, join_views(batch.images)))
            right, varied = find_partners(projections), spread(projections)
        else:
            images, labels = self._task(batch)
            right = scores(self.network, images).argmax(1) == labels
            varied = torch.zeros((), device=right.device)
        count = torch.tensor(len(right), device=right.device)
        self._counts += torch.stack([right.sum(), count, count * varied])

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy over the images of all processes."""
        counts = self.all_gather(self._counts)
        assert isinstance(counts, Tensor)
        right, count, varied = counts.reshape(-1, 3).sum(0).tolist()
        accuracy = right / max(1, count)
        self.log("val/accuracy", accuracy, prog_bar=True, rank_zero_only=False)
        logger.info("Epoch %d: accuracy %.2f %%", self.current_epoch, 100 * accuracy)
        if self.simsiam is not None:
            std = varied / max(1, count)
            self.log("val/std", std, rank_zero_only=False)
            if std < COLLAPSED:
                logger.warning(
                    "SimSiam has collapsed: its outputs for different images are the same (std"
                    " %.3f; near 1 is healthy). Lower model.learning_rate, or raise"
                    " data.batch_size.",
                    std,
                )

    def _task(self, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        return (batch.images, batch.labels) if self.classes else turned(batch.images)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with a schedule of warm-up, then half a cosine."""
        groups = parameter_groups(
            {"network": (self.learning_rate, self.parameters())}, self.weight_decay
        )
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Return the share of the peak learning rate at a step; see `CaptioningModule`."""
        steps = self.trainer.estimated_stepping_batches if step else math.inf
        return cosine_rate(step, steps, self.warmup_steps, self.final_share)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the description of the weights with them.

        Raises:
            ConfigError: A weight is not finite; earlier checkpoints are kept.
        """
        self._check_weights()
        checkpoint["pretraining"] = self._described()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the classes and the network are those of the checkpoint.

        Raises:
            ConfigError: They have changed since the checkpoint was saved.
        """
        before, now = checkpoint.get("pretraining", {}), self._described()
        changed = [key for key in now if before.get(key) != now[key]]
        if changed:
            key = changed[0]
            raise ConfigError(
                f"The checkpoint's {key} is {_shortened(before.get(key))}, but this run's is"
                f" {_shortened(now[key])}. Restore the data and the config, or start a new run."
            )

    def _described(self) -> dict[str, Any]:
        return {"encoder": self.name, "method": self.method, "classes": list(self.classes)}

    def _check_weights(self) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in self.parameters()):
            raise ConfigError(
                f"A weight is not finite at step {self.global_step}. Lower model.learning_rate or"
                " use another trainer.precision; earlier checkpoints are intact."
            )


def _shortened(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
