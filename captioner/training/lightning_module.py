"""The LightningModule: training steps, the fine-tuning schedule, validation by free decoding."""

import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor

from captioner.backends.torch import TorchBackend
from captioner.data.datamodule import CaptionData
from captioner.data.dataset import Batch
from captioner.decoding.search import DecodingOptions
from captioner.errors import ConfigError
from captioner.evaluation.results import save_results
from captioner.events.config import EventConfig
from captioner.inference import Captioner
from captioner.model.decoder import DecoderConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.pretrained import warn_of_preprocessing
from captioner.model.temporal import TemporalConfig
from captioner.preprocessing import Preprocessing
from captioner.training.average_precision import average_precisions, mean_average_precision
from captioner.training.averaging import OPTION as AVERAGE
from captioner.training.averaging import StartAverage
from captioner.training.distillation import DistillationConfig, Teachers
from captioner.training.feature_cache import FeatureCache
from captioner.training.frozen_part import FrozenPart
from captioner.training.keeping import OriginalClasses
from captioner.training.loss import CaptionLoss, event_loss
from captioner.training.network import continued_network, new_network
from captioner.training.optimization import (
    FinetuneConfig,
    check_schedule,
    cosine_rate,
    epoch_share,
    make_optimizer,
)
from captioner.training.processes import gather, shares
from captioner.training.samples import log_samples
from captioner.training.seeding import seed_step
from captioner.training.self_critical import Critic, SelfCriticalConfig, with_drawn
from captioner.training.validation import Validated, divide_captions, mean_scores
from captioner.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class CaptioningModule(LightningModule):
    """Cross-entropy training of a captioning model.

    Args:
        vocabulary: The words; linked from the data.
        preprocessing: From image to pixels; linked from the data.
        word_counts: How often each word occurs in the training captions, in id order; linked from
            the data. They initialise the bias of the output layer, so that training need not learn
            the frequencies (Karpathy and Fei-Fei 2015).
        events: The events that are labelled in the clips; linked from the data.
        init_from: A checkpoint folder, or "bundled", to continue from. Its architecture (except
            dropout, and a pointer that is added) and preprocessing override those given here; new
            words are appended to its vocabulary.
        encoder: The encoder's architecture.
        decoder: The decoder's architecture.
        temporal: How the frames of a clip are joined, for a model of clips.
        weights: Pretrained weights of the encoder: the name of torchvision weights (which
            torchvision downloads), a local `.safetensors` or `.pth` file, a checkpoint folder or
            "bundled" (whose encoder is used), or null for random weights.
        tags: Whether to keep the classifier of `weights` or `init_from`, if there is one, so that
            the model gives tags too; it is not trained.
        events_weight: Weight of the loss of labelled events beside that of the captions.
        finetune: When and how the encoder trains.
        average_with_start: Validate and save the average of the trained weights and those of
            `init_from`, which keeps much of what it knew (WiSE-FT; Wortsman et al. 2022): the
            weight of the trained ones, such as 0.5. Words and styles that are new to the vocabulary
            have the trained weights alone, and training goes on with its own. Null for no average.
        learning_rate: The decoder's peak learning rate.
        weight_decay: AdamW's weight decay, on matrices and kernels only.
        warmup_steps: Steps in which the learning rate rises from 0 to its peak; after them it falls
            as a half cosine.
        final_share: Share of the peak at which the learning rate ends.
        label_smoothing: Share of the probability that is spread over all words (Szegedy et al.
            2016).
        coverage_penalty: Weight of the doubly stochastic penalty, sum over regions of (1 -
            attention summed over the caption)^2, averaged over captions (Xu et al. 2015, eq. 14); 0
            for decoders without attention.
        scheduled_sampling: Probability, in the last epoch, that an input word is sampled from the
            model's own predictions; it rises linearly from 0 (Bengio et al. 2015).
        decoding: How validation images are captioned; stored in the checkpoint as its defaults.
        self_critical: Whether sampled captions are trained with their CIDEr-D as reward, as a
            second stage that begins with `init_from` (Rennie et al. 2017).
        distillation: Models whose probabilities are learnt besides the captions.
        samples: Number of validation images that are logged with the model's captions.
        about: The beginning of the model card, in Markdown: a title, the data, licences, known
            weaknesses.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        word_counts: list[int] | None = None,
        events: EventConfig | None = None,
        init_from: str | None = None,
        encoder: EncoderConfig = EncoderConfig(),  # noqa: B008
        decoder: DecoderConfig = DecoderConfig(),  # noqa: B008
        temporal: TemporalConfig = TemporalConfig(),  # noqa: B008
        weights: str | None = None,
        tags: bool = True,
        events_weight: float = 1.0,
        finetune: FinetuneConfig = FinetuneConfig(),  # noqa: B008
        average_with_start: float | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 200,
        final_share: float = 0.05,
        label_smoothing: float = 0.0,
        coverage_penalty: float = 0.0,
        scheduled_sampling: float = 0.0,
        decoding: DecodingOptions = DecodingOptions(),  # noqa: B008
        self_critical: SelfCriticalConfig = SelfCriticalConfig(),  # noqa: B008
        distillation: DistillationConfig = DistillationConfig(),  # noqa: B008
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
        self.loss = CaptionLoss(
            label_smoothing,
            coverage_penalty,
            self_critical.weight,
            distillation.weight,
            vocabulary.never,
        )
        self.events_weight = events_weight
        self.scheduled_sampling = scheduled_sampling
        self.decoding = decoding
        self.self_critical = self_critical
        self.distillation = distillation
        self.samples = samples
        self.about = about
        decoding.check_defaults()
        vocabulary.start(decoding.style)  # fail early if there is no such style
        check_schedule(learning_rate, warmup_steps, final_share)
        for name, number in (
            ("events_weight", events_weight),
            ("coverage_penalty", coverage_penalty),
            ("samples", samples),
        ):
            if not 0 <= number < math.inf:
                raise ConfigError(f"model.{name} is {number}; expected 0 or more.")
        for name, share in (
            ("label_smoothing", label_smoothing),
            ("scheduled_sampling", scheduled_sampling),
        ):
            if not 0 <= share < 1:
                raise ConfigError(f"model.{name} is {share}; expected a share from 0 to below 1.")
        if self_critical.weight and (distillation.teachers or scheduled_sampling):
            other = "distillation" if distillation.teachers else "scheduled_sampling"
            raise ConfigError(
                f"model.self_critical and model.{other} cannot be combined; turn one off."
            )
        if init_from is not None:
            self.network = continued_network(
                init_from,
                vocabulary,
                decoder.dropout,
                tags=tags,
                pointer=decoder.pointer,
                events=events,
            )
        else:
            self.network = new_network(
                encoder,
                decoder,
                preprocessing.size,
                vocabulary,
                word_counts,
                weights,
                tags=tags,
                temporal=temporal,
                events=events,
            )
            if weights is not None:
                warn_of_preprocessing(encoder.name, preprocessing, weights)
        # fails now, not in epoch 10, if there is no such stage
        self.frozen_part = FrozenPart(self.network.encoder, finetune.stages)
        self.original: OriginalClasses | None = None
        if self.network.classifier is not None and finetune.stages and finetune.keep_classifier:
            self.original = OriginalClasses(self.network, self.frozen_part, finetune.classifier_of)
        self.start_average: StartAverage | None = None
        if average_with_start is not None:
            self.start_average = StartAverage.begin(
                average_with_start, init_from, self.network, encoder=bool(finetune.stages)
            )
        self._captions: dict[int, str] = {}
        self._probabilities: dict[int, NDArray[np.float32]] = {}  # of events, (F, E) each
        self._styles: list[str] = []  # of the validation images
        self._last_loss = torch.zeros(())
        self._critic: Critic | None = None
        self.teachers: Teachers | None = None
        if distillation.teachers:
            folders = distillation.folders(init_from)
            self.teachers = Teachers(folders, vocabulary, preprocessing)

    def setup(self, stage: str) -> None:
        """Set the data module's source of features for the epochs with a frozen encoder."""
        data = CaptionData.of(self.trainer)
        data.feature_source = FeatureCache(
            self.network.encoder,
            until=self.finetune.begins,
            teachers=self.teachers,
            precision=self.trainer.precision_plugin.forward_context,
        )
        if stage == "fit":
            self.frozen_part.n_images = self._encoded(data)

    def _encoded(self, data: CaptionData) -> int:
        """Return how many images or frames the run encodes at least: those of training."""
        images = len(data.records["train"]) * max(1, self.trainer.max_epochs or 1)
        if self.trainer.max_steps >= 0:
            images = min(images, self.trainer.max_steps * data.batch_size)
        return images * max(1, self.network.frames)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels; from cached features, return the model's part."""
        if pixels.ndim > 3:
            return self.frozen_part.encode(self.network.encoder, pixels)
        return pixels[:, :, : self.network.encoder.width]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the step, so that a resumed run is identical to an uninterrupted one."""
        seed_step(self, batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of one batch."""
        inputs, advantages, taught, kept = batch.inputs, None, None, None
        if self.original is not None and inputs.ndim > 3 and not self.network.encoder.frozen:
            features, kept = self.original.encode(self.network, inputs)
        else:
            features = self(inputs)
        regions, events = self.network.look(features)
        batch = batch._replace(inputs=regions)
        if self._critic is not None:
            batch, advantages, drawn = with_drawn(
                batch, self.network.decoder, self._critic, self.self_critical
            )
            self._log_figures(drawn, len(batch.captions))
        sampled = self.scheduled_sampling and self.scheduled_sampling * epoch_share(self.trainer)
        output = self.network.decoder(batch.inputs, batch.captions, sampled)
        if self.teachers is not None:
            taught = self.teachers.probabilities(inputs, batch.captions)
        own = partial(shares, ranks=self.trainer.world_size, device=self.device)
        loss, figures = self.loss(
            output, batch.captions, batch.weights, own, advantages=advantages, taught=taught
        )
        if events is not None and batch.events is not None:
            told, figures["events"] = event_loss(events, batch.events, own)
            loss = loss + self.events_weight * told
        if kept is not None:
            figures["kept"] = kept.detach()
            loss = loss + self.finetune.keep_classifier * kept
        self._log_figures(figures, len(batch.captions))
        self._last_loss = loss.detach()
        if not loss.is_cuda or batch_idx % 20 == 0:  # reading the loss synchronises the GPU
            self._check_loss()
        return loss

    def _log_figures(self, figures: Mapping[str, float | Tensor], n_images: int) -> None:
        for name, value in figures.items():
            # showing it at every step would synchronise the GPU
            waits = isinstance(value, Tensor) and value.is_cuda
            self.log(
                f"train/{name}",
                value,
                prog_bar=name in ("loss", "reward") and not waits,
                batch_size=n_images,
            )

    def _check_loss(self) -> None:
        if not torch.isfinite(self._last_loss):
            raise ConfigError(self._diverged(f"The loss is {self._last_loss.item()}"))

    def _check_weights(self) -> None:
        """Fail if the loss or weights contain NaN or Inf; a finite loss may have a bad gradient."""
        self._check_loss()
        if not all(
            bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters()
        ):
            raise ConfigError(self._diverged("Weights contain NaN or Inf"))

    def _diverged(self, what: str) -> str:
        return (
            f"{what} at step {self.global_step}. Lower model.learning_rate or use another"
            " trainer.precision; earlier checkpoints are intact."
        )

    def on_train_start(self) -> None:
        """Unfreeze the encoder if the run is resumed in mid-epoch; create the critic."""
        self._unfreeze_encoder()
        if self.self_critical.weight:
            references = CaptionData.of(self.trainer).tokens["train"]
            self._critic = Critic(references, self.vocabulary, self.decoding.forbidden_endings)

    def on_train_epoch_start(self) -> None:
        """Unfreeze the encoder in its first epoch."""
        self._unfreeze_encoder()
        if self._critic is not None:
            self._critic.forget()

    def _unfreeze_encoder(self) -> None:
        encoder = self.network.encoder
        if not self.finetune.trains(self.current_epoch) or not encoder.frozen:
            return
        encoder.unfreeze(self.finetune.stages, freeze_batchnorm=self.finetune.freeze_batchnorm)
        logger.info(
            "Epoch %d: the encoder's %s train too",
            self.current_epoch,
            ", ".join(self.finetune.stages),
        )
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy):
            strategy.model = self
            # again, because DDP averages only the gradients of parameters that trained before
            strategy.configure_ddp()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Create AdamW with separate rates for decoder and encoder, and the learning rate schedule.

        The schedule is a linear warm-up followed by a half cosine.
        """
        optimizer = make_optimizer(
            self.network, self.learning_rate, self.weight_decay, self.finetune
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Compute the share of the peak learning rate at a step.

        The number of steps is read only from step 1 on: the trainer loads the training data to
        compute it, and a resumed run doesn't know its epoch yet while the optimizer is created.
        """
        steps = self.trainer.estimated_stepping_batches if step else math.inf
        return cosine_rate(step, steps, self.warmup_steps, self.final_share)

    def on_validation_start(self) -> None:
        """Fail if weights contain NaN or Inf, and look up the style of each image."""
        self._check_weights()
        self._styles = [
            each.style or self.decoding.style
            for each in CaptionData.of(self.trainer).validation_sets
            for _ in each.records
        ]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Caption the images by free decoding, as in inference, with the weights to be saved."""
        if not len(batch.indices):
            return
        average = self.start_average
        with nullcontext() if average is None else average.applied(self.network):
            self._caption(batch)

    def _caption(self, batch: Batch) -> None:
        backend = TorchBackend(self.network)
        captioner = Captioner(
            backend,
            self.vocabulary,
            self.preprocessing,
            self.decoding,
            tags=self.network.tags,
            frames=self.network.frames,
        )
        features = self(batch.inputs)
        styles = [self._styles[index] for index in batch.indices.tolist()]
        for style in dict.fromkeys(styles):
            chosen = [row for row, own in enumerate(styles) if own == style]
            stepper = backend.start(features[chosen])
            indices = batch.indices[chosen].tolist()
            for index, caption in zip(indices, captioner.decode(stepper, style=style), strict=True):
                self._captions[index] = caption.text
            if stepper.events is not None:
                probabilities = np.exp(-np.logaddexp(0, -stepper.events))
                self._probabilities |= dict(zip(indices, probabilities, strict=True))

    def on_validation_epoch_end(self) -> None:
        """Score the captions of all processes against the raw references; save and log them."""
        captions = gather(self._captions, ranks=self.trainer.world_size)
        probabilities = gather(self._probabilities, ranks=self.trainer.world_size)
        self._captions, self._probabilities = {}, {}
        first = self.trainer.sanity_checking
        told = not first or self.trainer.num_sanity_val_steps == math.inf  # else a few batches
        limit = self.trainer.limit_val_batches
        whole = told and isinstance(limit, float) and limit == 1  # an integer counts batches
        sets = CaptionData.of(self.trainer).validation_sets
        validated = divide_captions(sets, captions, whole=whole)
        scores = [each.scores() for each in validated]
        for each, own in zip(validated, scores, strict=True):
            self._log_scores(each.prefix, own)
        mean = mean_scores(validated, scores)
        if len(validated) > 1 or validated[0].validation_set.name:
            self._log_scores("val/", mean)
        if told:
            when = "Before training" if first else f"Epoch {self.current_epoch}"
            for each, own in zip(validated, scores, strict=True):
                self._tell(each, own, when)
            self._score_events(probabilities, when)
            if len(validated) > 1:
                logger.info("%s, mean: CIDEr-D %.1f", when, 100 * mean["CIDEr-D"])

    def _score_events(self, probabilities: Mapping[int, NDArray[np.float32]], when: str) -> None:
        """Log the mean average precision of the events in the validation clips."""
        labels = CaptionData.of(self.trainer).labels
        if labels is None or not probabilities:
            return
        steps = [labels.steps["val"][index] for index in probabilities]
        precisions = average_precisions(
            np.concatenate([*probabilities.values()]), np.concatenate(steps), labels.config.labels
        )
        mean = mean_average_precision(precisions)
        if mean is not None:
            self._log_scores("events/", {"mAP": mean})
            logger.info("%s: mean average precision of events %.1f", when, 100 * mean)

    def _log_scores(self, prefix: str, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self.log(f"{prefix}{name}", value, prog_bar=name == "CIDEr-D", rank_zero_only=False)

    def _tell(self, validated: Validated, scores: Mapping[str, float], when: str) -> None:
        """Save the captions of a set, log its scores, and log some of its images."""
        name = validated.validation_set.name
        if self.trainer.is_global_zero:
            file = f"validation_{name}.json" if name else "validation.json"
            save_results(Path(self.trainer.default_root_dir) / file, validated.results)
        figures = "  ".join(f"{metric} {100 * value:.1f}" for metric, value in scores.items())
        logger.info("%s: %s", f"{when}, {name}" if name else when, figures)
        for each in self.loggers:
            samples = validated.samples(self.samples)
            log_samples(each, samples, self.global_step, name, frames=self.network.frames)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the vocabulary with the weights.

        Raises:
            ConfigError: The loss or weights contain NaN or Inf; the earlier checkpoint is kept.
        """
        self._check_weights()
        checkpoint["vocabulary"] = list(self.vocabulary.words)
        checkpoint["network"] = self._described()
        if self.start_average is not None:
            checkpoint[AVERAGE] = self.start_average.state()

    def _described(self) -> dict[str, Any]:
        tags = None if self.network.tags is None else self.network.tags.to_dict()
        return {
            **self.network.architecture(),
            "tags": tags,
            "events": None if self.network.events is None else self.network.events.to_dict(),
            "finetune.stages": list(self.finetune.stages),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fail if the vocabulary or the network differs from the checkpoint's.

        The run keeps averaging with the weights that it began with.

        Raises:
            ConfigError: One of them has changed since the checkpoint was written.
        """
        if checkpoint.get("vocabulary") != list(self.vocabulary.words):
            raise ConfigError(
                "The checkpoint's vocabulary differs from that of the training captions: the"
                " captions or data.min_count have changed. Start a new run, or restore the"
                " captions."
            )
        before = {"tags": None, "events": None, **checkpoint.get("network", {})}
        now = self._described()
        if before != now:
            raise ConfigError(
                f"Architecture mismatch: the checkpoint has {before}, the config {now}. Restore"
                " model.encoder, model.decoder, model.temporal, model.tags, data.events and"
                " model.finetune.stages, or start a new run."
            )
        start = checkpoint.get(AVERAGE)
        self.start_average = None if start is None else StartAverage(**start)
