"""The LightningModule: loss, optimizer groups, validation by free decoding."""

import logging
import math
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import BUNDLED
from captioner.data.dataset import Batch
from captioner.decoding.search import DecodingOptions
from captioner.errors import ConfigError
from captioner.evaluation.report import score
from captioner.inference import Captioner
from captioner.model.captioning import CaptioningModel
from captioner.model.decoder import DecoderConfig, TeacherForced
from captioner.model.encoder import EncoderConfig, load_pretrained
from captioner.preprocessing import Preprocessing
from captioner.training.samples import log_samples
from captioner.vocabulary import PAD, Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneConfig:
    """When and how the encoder trains.

    Args:
        stages: Names of the CNN's modules that train, such as ["layer4"]; ["all"] for the whole CNN, [] for none.
        from_epoch: The first epoch, counted from 0, in which they train; before, only the decoder does.
        learning_rate: Their own peak learning rate.
        freeze_batchnorm: Leave BatchNorm's statistics, scale and shift as they are.
    """

    stages: list[str] = field(default_factory=list)
    from_epoch: int = 0
    learning_rate: float = 1e-5
    freeze_batchnorm: bool = True


class CaptioningModule(LightningModule):
    """Cross-entropy training of a captioning model.

    Args:
        vocabulary: The words; linked from the data.
        preprocessing: From image to pixels; linked from the data.
        word_counts: How often each word occurs in the training captions, in id order; linked from the data. The output
            layer begins with these frequencies, so that training need not find them (Karpathy and Fei-Fei 2015).
        encoder: What the encoder is.
        decoder: What the decoder is.
        weights: Pretrained weights of the encoder: the name of torchvision weights (which torchvision downloads), a
            local `.safetensors` or `.pth` file, a checkpoint folder or "bundled" (its encoder is taken), or null to
            start from random.
        finetune: When and how the encoder trains.
        learning_rate: The decoder's peak learning rate.
        weight_decay: Of AdamW, on matrices and kernels only.
        warmup_steps: Steps in which the learning rate rises from 0 to its peak; it falls as a half cosine after.
        final_share: Share of the peak at which the learning rate ends.
        label_smoothing: Share of the probability that is spread over all words (Szegedy et al. 2016).
        coverage_penalty: Weight of the doubly stochastic penalty, sum over regions of (1 - attention summed over the
            caption)^2, averaged over captions (Xu et al. 2015, eq. 14); 0 for decoders without attention.
        scheduled_sampling: Probability, in the last epoch, that an input word is one that the model itself proposed;
            it rises linearly from 0 (Bengio et al. 2015).
        decoding: How validation images are captioned; stored in the checkpoint as its defaults.
        samples: How many validation images are shown in the logger, with what the model says about them.
        about: What the model card begins with, Markdown: a title, what the data are, licences, known weaknesses.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        word_counts: list[int] | None = None,
        encoder: EncoderConfig = EncoderConfig(),  # noqa: B008
        decoder: DecoderConfig = DecoderConfig(),  # noqa: B008
        weights: str | None = None,
        finetune: FinetuneConfig = FinetuneConfig(),
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 200,
        final_share: float = 0.05,
        label_smoothing: float = 0.0,
        coverage_penalty: float = 0.0,
        scheduled_sampling: float = 0.0,
        decoding: DecodingOptions = DecodingOptions(),  # noqa: B008
        samples: int = 8,
        about: str = "",
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.preprocessing = preprocessing
        self.finetune = finetune
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.final_share = final_share
        self.label_smoothing = label_smoothing
        self.coverage_penalty = coverage_penalty
        self.scheduled_sampling = scheduled_sampling
        self.decoding = decoding
        self.samples = samples
        self.about = about
        for name in ("label_smoothing", "scheduled_sampling"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; expected a share from 0 to below 1.")
        self.network = CaptioningModel(
            encoder, decoder, image_size=preprocessing.size, vocab_size=len(vocabulary), pad=PAD
        )
        if word_counts is not None:
            frequencies = torch.tensor(word_counts) + 0.1
            with torch.no_grad():
                self.network.decoder.output.bias.copy_((frequencies / frequencies.sum()).log())
        if weights is not None:
            folder = str(BUNDLED) if weights == "bundled" else weights
            load_pretrained(self.network.encoder, encoder.name, folder)
        self.network.encoder.unfreeze(finetune.stages)  # a stage that isn't there is refused at once, not in epoch 10
        self.network.encoder.unfreeze(())
        self._captions: dict[int, str] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Region features (B, L, D) of pixels (B, 3, S, S); features that were computed before are passed through."""
        return self.network.encoder(images) if images.ndim == 4 else images

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        progress = self.current_epoch / max(1, (self.trainer.max_epochs or 1) - 1)
        output = self.network.decoder(self(batch.images), batch.captions, self.scheduled_sampling * min(1, progress))
        loss = self.loss(output, batch)
        if not torch.isfinite(loss):
            raise ConfigError(
                f"The loss is {loss.item()} at step {self.global_step}. Lower model.learning_rate or use another "
                "trainer.precision; the last checkpoint is whole."
            )
        return loss

    def loss(self, output: TeacherForced, batch: Batch) -> Tensor:
        """Cross-entropy with label smoothing, mean over words, and the doubly stochastic penalty."""
        logits = output.logits.float()
        loss = nn.functional.cross_entropy(logits, output.targets, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.captions))
        if self.coverage_penalty and output.coverage is not None:
            present = (batch.captions != PAD).any(dim=2)  # (B, K)
            penalty = (1 - output.coverage.float()).square().sum(dim=2)[present].mean()
            self.log("train/coverage_penalty", penalty, batch_size=len(batch.captions))
            loss = loss + self.coverage_penalty * penalty
        return loss

    def encoder_trains(self, epoch: int) -> bool:
        """Whether some of the encoder trains in an epoch; while it doesn't, its features can be computed once."""
        return bool(self.finetune.stages) and epoch >= self.finetune.from_epoch

    def on_train_epoch_start(self) -> None:
        """Seed the epoch, so that a resumed run goes on as it would have, and let the encoder's stages train."""
        torch.manual_seed(int(os.environ.get("PL_GLOBAL_SEED", 0)) * 100_003 + self.current_epoch)
        encoder = self.network.encoder
        if self.encoder_trains(self.current_epoch) and encoder.frozen:
            encoder.unfreeze(self.finetune.stages, freeze_batchnorm=self.finetune.freeze_batchnorm)
            logger.info("Epoch %d: the encoder's %s train too", self.current_epoch, ", ".join(self.finetune.stages))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with the decoder's and the encoder's parameters at their own rates; warm-up, then a half cosine."""
        decoder, encoder = self.network.decoder, self.network.encoder
        groups = [
            {"name": "decoder", "lr": self.learning_rate, "params": [p for p in decoder.parameters() if p.ndim > 1]},
            {"name": "decoder/1d", "lr": self.learning_rate, "params": [p for p in decoder.parameters() if p.ndim < 2]},
        ]
        if self.finetune.stages:
            encoder.unfreeze(self.finetune.stages, freeze_batchnorm=self.finetune.freeze_batchnorm)
            trained = list(encoder.trained_parameters())
            encoder.unfreeze(())
            rate = self.finetune.learning_rate
            groups.append({"name": "encoder", "lr": rate, "params": [p for p in trained if p.ndim > 1]})
            groups.append({"name": "encoder/1d", "lr": rate, "params": [p for p in trained if p.ndim < 2]})
        for group in groups:
            group["weight_decay"] = 0.0 if str(group["name"]).endswith("/1d") else self.weight_decay
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Share of the peak learning rate at a step.

        How many steps there are is asked from the second on: to answer, the trainer loads the training data, and when
        a run is resumed, it doesn't know its epoch yet while the optimizer is made.
        """
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        progress = min(1.0, step / self.trainer.estimated_stepping_batches) if step else 0.0
        fall = 0.5 * (1 + math.cos(math.pi * progress))
        return warm * (self.final_share + (1 - self.final_share) * fall)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Caption the images freely, as a user would."""
        backend = TorchBackend(self.network)
        captioner = Captioner(backend, self.vocabulary, self.preprocessing, self.decoding)
        captions = captioner.decode(backend.start(self(batch.images)))
        for index, caption in zip(batch.indices.tolist(), captions, strict=True):
            self._captions[index] = caption.text

    def on_validation_epoch_end(self) -> None:
        """Score all captions against the raw references, and show some."""
        records = self.trainer.datamodule.records["val"]  # type: ignore[attr-defined]
        captions = {records[index].image_id: text for index, text in self._captions.items()}
        references = {records[index].image_id: list(records[index].captions) for index in self._captions}
        scores = score(references, captions).to_dict()
        del scores["images"]
        for name, value in scores.items():
            self.log(f"val/{name}", value, prog_bar=name == "CIDEr-D")
        if not self.trainer.sanity_checking:
            figures = "  ".join(f"{name} {100 * value:.1f}" for name, value in scores.items())
            logger.info("Epoch %d: %s", self.current_epoch, figures)
            shown = sorted(self._captions)[: self.samples]
            log_samples(self.logger, [(records[i], self._captions[i]) for i in shown], self.global_step)
        self._captions = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the words with the weights that mean them."""
        checkpoint["vocabulary"] = list(self.vocabulary.words)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other words than the checkpoint's."""
        if checkpoint.get("vocabulary") != list(self.vocabulary.words):
            raise ConfigError(
                "The checkpoint's vocabulary is not that of the training captions: they, or data.min_count, have "
                "changed since it was written. Start a new run, or bring back the captions."
            )
