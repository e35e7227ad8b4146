"""Encoder + decoder, nothing else."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from captioner.errors import CheckpointError
from captioner.model.decoder import DECODERS, DecoderConfig, TeacherForced
from captioner.model.encoder import Encoder, EncoderConfig


class CaptioningModel(nn.Module):
    """A CNN that looks and an LSTM that speaks.

    Args:
        encoder: What the encoder is.
        decoder: What the decoder is.
        image_size: S, the side of the images in pixels.
        vocab_size: V.
        pad: Id of the padding.
    """

    def __init__(
        self, encoder: EncoderConfig, decoder: DecoderConfig, *, image_size: int, vocab_size: int, pad: int = 0
    ) -> None:
        super().__init__()
        self.configs = (encoder, decoder)
        self.encoder = Encoder(encoder, image_size)
        self.decoder = DECODERS[decoder.name](decoder, self.encoder.width, vocab_size, pad)

    def forward(self, pixels: Tensor, captions: Tensor, scheduled_sampling: float = 0.0) -> TeacherForced:
        """Teacher forcing from pixels (B, 3, S, S) and captions (B, K, T); see `Decoder.forward`."""
        return self.decoder(self.encoder(pixels), captions, scheduled_sampling)  # type: ignore[no-any-return]

    def architecture(self) -> dict[str, Any]:
        """What `from_architecture` needs to build this network again, but for derived facts."""
        encoder, decoder = self.configs
        return {"encoder": asdict(encoder), "decoder": asdict(decoder)}

    def portable_state(self) -> dict[str, Tensor]:
        """All weights by name, tied ones once and without BatchNorm's counters: what a checkpoint holds."""
        seen: set[int] = set()
        state = {}
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point() and tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                state[name] = tensor
        return state

    def load_portable_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `portable_state` gave, of this version or an earlier one, strictly.

        Raises:
            CheckpointError: A tensor is missing, unknown or of another shape.
        """
        expected = self.portable_state()
        state = self.encoder.current_names(state, "encoder.")
        for name in expected.keys() ^ state.keys():
            kind = "lacks" if name in expected else "has the unknown"
            raise CheckpointError(f"The weights don't belong to this architecture: the file {kind} tensor {name}.")
        with torch.no_grad():
            for name, tensor in expected.items():
                if tensor.shape != state[name].shape:
                    shapes = f"{tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
                    raise CheckpointError(f"The weights don't belong to this architecture: {name} is {shapes}.")
                tensor.copy_(state[name])

    def enlarge_vocabulary(self, vocab_size: int) -> None:
        """Make room for new words behind the old ones, whose weights stay as they are.

        A new word begins as the mean of the old ones, in the embedding and in the output layer.

        Args:
            vocab_size: V, not below what it is.
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
        cls, architecture: Mapping[str, Any], *, image_size: int, vocab_size: int, pad: int = 0
    ) -> "CaptioningModel":
        """Build a network, with random weights, from what `architecture` gave."""
        encoder = EncoderConfig(**architecture["encoder"])
        decoder = DecoderConfig(**architecture["decoder"])
        return cls(encoder, decoder, image_size=image_size, vocab_size=vocab_size, pad=pad)


def _with_mean_rows(rows: Tensor, count: int) -> nn.Parameter:
    new = rows.mean(dim=0, keepdim=True).expand(count - len(rows), *rows.shape[1:])
    return nn.Parameter(torch.cat([rows, new]))
