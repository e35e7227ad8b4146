"""The captioning model: encoder, optional temporal encoder for clips, decoder, optional classifier.

The classifier is that of the encoder's pretrained weights; tags are computed from its logits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captioner.errors import CheckpointError, ConfigError
from captioner.events.config import EventConfig
from captioner.model.classifier import LinearHead
from captioner.model.decoder import DECODERS, DecoderConfig, TeacherForced
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.model.temporal import (
    TEMPORAL_ENCODERS,
    EventHead,
    MeanOfFrames,
    TemporalConfig,
    TemporalEncoder,
)
from captioner.tags import TagConfig
from captioner.tags.words import ClassWords


class Seen(NamedTuple):
    """What a model makes of the encoder's features, before the decoder.

    Attributes:
        regions: What the decoder attends to: of photos the features as they are; of clips (B, L',
            H), see `TemporalEncoder`.
        events: The logits of events at each frame, (B, F, E); None for a model without.
    """

    regions: Tensor
    events: Tensor | None


class CaptioningModel(nn.Module):
    """A CNN encoder, an LSTM decoder, and optionally the encoder's classifier.

    Args:
        encoder: The encoder's config.
        decoder: The decoder's config.
        image_size: S, the side of the images in pixels.
        vocab_size: V.
        pad: Id of the padding.
        tags: The meaning of the classifier's classes; None for a model without a classifier.
        temporal: How the frames of a clip are joined; None, or one named "none", for a model of
            photos.
        events: What the logits of events stand for; None for a model without.

    Attributes:
        tags: The meaning of the classifier's classes.
        temporal: The temporal encoder; None for a model of photos.
        events: The meaning of the logits of events.
        event_head: Computes the logits of events at each frame of a clip; None for a model without
            events.
        classifier: The linear layer that computes class logits from the mean of an image's region
            features. It never trains. None for a model without a classifier.

    Raises:
        ConfigError: The network or its grid is not supported, doesn't fit the classifier, or
            has no RNN over frames to recognise events from.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        *,
        image_size: int,
        vocab_size: int,
        pad: int = 0,
        tags: TagConfig | None = None,
        temporal: TemporalConfig | None = None,
        events: EventConfig | None = None,
    ) -> None:
        super().__init__()
        self.configs = (encoder, decoder)
        self.temporal_config = temporal or TemporalConfig()
        self.encoder = Encoder(encoder, image_size)
        self.temporal: TemporalEncoder | None = None
        width = self.encoder.width
        if self.temporal_config.clip_frames:
            make = TEMPORAL_ENCODERS[self.temporal_config.name]
            self.temporal = make(self.temporal_config, self.encoder.regions, width)
            width = self.temporal.width
        self.decoder = DECODERS[decoder.name](decoder, width, vocab_size, pad)
        self.tags: TagConfig | None = None
        self.classifier: nn.Linear | None = None
        if tags is not None:
            self._add_classifier(tags)
        if decoder.pointer:
            self.add_pointer()
        self.events: EventConfig | None = None
        self.event_head: EventHead | None = None
        self.tell_events(events)

    def forward(
        self, pixels: Tensor, captions: Tensor, scheduled_sampling: float = 0.0
    ) -> TeacherForced:
        """Run teacher forcing on pixels and captions (B, K, T); see `Decoder.forward`."""
        regions = self.regions_of(self.encoder(pixels))
        return self.decoder(regions, captions, scheduled_sampling)  # type: ignore[no-any-return]

    @property
    def frames(self) -> int:
        """F, the number of frames that a model of clips sees; 0 for a model of photos."""
        return self.temporal_config.clip_frames

    def regions_of(self, features: Tensor) -> Tensor:
        """Compute the regions that the decoder attends to.

        Args:
            features: The encoder's features: (B, L, D) for photos, (B, F * L, D) for clips.

        Returns:
            The same features for photos; (B, L', H) for clips, see `TemporalEncoder`.
        """
        return self.look(features).regions

    def look(self, features: Tensor) -> Seen:
        """Join frames, and score events.

        Args:
            features: The encoder's: (B, L, D) of photos, (B, F * L, D) of clips.
        """
        if self.temporal is None:
            return Seen(features, None)
        attended, states, frames = self.temporal.read(features)
        return Seen(attended, None if self.event_head is None else self.event_head(frames, states))

    def tell_events(self, events: EventConfig | None) -> None:
        """Tell these events from now on, by a new head unless the labels are the same.

        Args:
            events: What they are; None for none.

        Raises:
            ConfigError: No RNN reads frames.
        """
        if events is not None and (
            self.temporal is None or isinstance(self.temporal, MeanOfFrames)
        ):
            raise ConfigError(
                f"temporal.name is {self.temporal_config.name!r}, and events are told from the"
                " states of an RNN over the frames; expected lrcn, s2vt or attention."
            )
        before, self.events = self.events, events
        if events is None or self.temporal is None:
            self.event_head = None
        elif before is None or before.labels != events.labels:
            self.event_head = EventHead(self.temporal.width, len(events.labels))

    def classes(self, features: Tensor) -> Tensor | None:
        """Compute the classifier's logits (B, C) of region features (B, L, D).

        Returns None for a model without a classifier.
        """
        return None if self.classifier is None else self.classifier(features.mean(dim=1))

    def keep_classifier(self, head: LinearHead, tags: TagConfig) -> None:
        """Keep the classifier that belongs to the encoder's pretrained weights.

        Args:
            head: Its weights.
            tags: The meaning of its classes.

        Raises:
            ConfigError: The number of classes differs, or the mean of the encoder's regions differs
                from that of the feature map that the classifier was trained on.
        """
        if head.weight.shape != (tags.classes, self.encoder.width):
            raise ConfigError(
                f"Shape mismatch: the classifier has {' x '.join(map(str, head.weight.shape))}"
                f" weights; expected {tags.classes} classes x {self.encoder.width} features."
            )
        classifier = self._add_classifier(tags)
        with torch.no_grad():
            classifier.weight.copy_(head.weight)
            classifier.bias.copy_(head.bias)

    def drop_classifier(self) -> None:
        """Remove the classifier, if there is one."""
        self.tags = self.classifier = None

    def add_pointer(self) -> None:
        """Let the decoder point to the words of tags, from the next `name_tags` on.

        Raises:
            ConfigError: It is a model of clips, or the decoder can't have a pointer.
        """
        if self.temporal is not None:
            raise ConfigError("decoder.pointer is for models of photos; this is one of clips.")
        self.decoder.add_pointer()
        self.configs = (self.configs[0], replace(self.configs[1], pointer=True))

    def name_tags(self, words: Sequence[str]) -> None:
        """Tell a decoder with a pointer which words name tags; others don't need it.

        Args:
            words: The model's vocabulary, in id order.

        Raises:
            ConfigError: The model has a pointer and no classifier, or no word names a tag.
        """
        if self.decoder.pointer is None:
            return
        if self.tags is None or self.classifier is None:
            raise ConfigError(
                "decoder.pointer is true, but the model has no classifier to take tags from. Set"
                " model.tags and weights that have one, or decoder.pointer to false."
            )
        named = ClassWords.find(self.tags.tagger.table, words)
        self.decoder.pointer.aim(self.classifier, named)

    def _add_classifier(self, tags: TagConfig) -> nn.Linear:
        if not self.encoder.even:
            raise ConfigError(
                f"A grid of {self.encoder.grid} x {self.encoder.grid} regions weights the CNN's"
                " feature map unevenly, so its classifier cannot use their mean; omit encoder.grid,"
                " or choose a divisor of the CNN's own grid."
            )
        self.tags = tags
        self.classifier = nn.Linear(self.encoder.width, tags.classes).requires_grad_(False)
        return self.classifier

    def architecture(self) -> dict[str, Any]:
        """Return the arguments with which `from_architecture` rebuilds this network."""
        encoder, decoder = (asdict(config) for config in self.configs)
        if not decoder["pointer"]:
            del decoder["pointer"]  # so that older versions can read the checkpoint
        parts = {"encoder": encoder, "decoder": decoder}
        return parts | ({"temporal": asdict(self.temporal_config)} if self.frames else {})

    def portable_state(self) -> dict[str, Tensor]:
        """Collect the weights for a checkpoint: tied ones once, without BatchNorm's counters."""
        seen: set[int] = set()
        state = {}
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point() and tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                state[name] = tensor
        return state

    def load_portable_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the result of `portable_state`, of this or an earlier version, strictly.

        Raises:
            CheckpointError: A tensor is missing, unknown or of another shape.
        """
        expected = self.portable_state()
        state = self.encoder.current_names(state, "encoder.")
        for name in expected.keys() ^ state.keys():
            kind = "lacks" if name in expected else "has the unknown"
            raise CheckpointError(
                f"The weights don't belong to this architecture: the file {kind} tensor {name}."
            )
        with torch.no_grad():
            for name, tensor in expected.items():
                if tensor.shape != state[name].shape:
                    shapes = f"{tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
                    raise CheckpointError(
                        f"The weights don't belong to this architecture: {name} is {shapes}."
                    )
                tensor.copy_(state[name])

    def enlarge_vocabulary(self, vocab_size: int) -> None:
        """Append new words to the vocabulary; the weights of the old ones are unchanged.

        A new word is initialised with the mean of the old ones, in the embedding and in the output
        layer.

        Args:
            vocab_size: The new V, at least the old one.
        """
        with torch.no_grad():
            embedding = _with_mean_rows(self.decoder.embedding.weight, vocab_size)
            tied = self.decoder.output.weight is self.decoder.embedding.weight
            weight = embedding if tied else _with_mean_rows(self.decoder.output.weight, vocab_size)
            bias = _with_mean_rows(self.decoder.output.bias, vocab_size)
        self.decoder.embedding.weight, self.decoder.embedding.num_embeddings = embedding, vocab_size
        self.decoder.output.weight, self.decoder.output.out_features = weight, vocab_size
        self.decoder.output.bias = bias

    @classmethod
    def from_architecture(
        cls,
        architecture: Mapping[str, Any],
        *,
        image_size: int,
        vocab_size: int,
        pad: int = 0,
        tags: TagConfig | None = None,
        events: EventConfig | None = None,
    ) -> "CaptioningModel":
        """Build a network with random weights from the value of `architecture`."""
        encoder = EncoderConfig(**architecture["encoder"])
        decoder = DecoderConfig(**architecture["decoder"])
        temporal = TemporalConfig(**architecture.get("temporal", {}))
        return cls(
            encoder,
            decoder,
            image_size=image_size,
            vocab_size=vocab_size,
            pad=pad,
            tags=tags,
            temporal=temporal,
            events=events,
        )


def _with_mean_rows(rows: Tensor, count: int) -> nn.Parameter:
    new = rows.mean(dim=0, keepdim=True).expand(count - len(rows), *rows.shape[1:])
    return nn.Parameter(torch.cat([rows, new]))
