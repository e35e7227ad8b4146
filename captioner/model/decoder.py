"""The LSTM decoders behind one small interface.

A decoder turns region features into the log-odds of the next word. `start` looks at the features once per image,
`step` advances K rows of every image by one word (beams in search), and `forward` runs whole captions (teacher forcing)
through the same recurrence, so the two give the same numbers.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from captioner.errors import ConfigError
from captioner.model.attention import AdditiveAttention

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class DecoderConfig:
    """What the decoder is.

    Args:
        name: "show_tell" (Vinyals et al. 2015) or "show_attend_tell" (Xu et al. 2015, gated soft attention).
        hidden_size: H, the width of the LSTM.
        embedding_size: E, the width of the word embedding.
        context_size: C, the width to which image regions are projected, once per image.
        attention_size: A, the width in which attention compares; unused by "show_tell".
        dropout: Share of the embedding, the regions and the output that is dropped in training.
        tie_embedding: Use the word embedding as output layer too (Press and Wolf 2017).
    """

    name: Literal["show_tell", "show_attend_tell"] = "show_attend_tell"
    hidden_size: int = 512
    embedding_size: int = 256
    context_size: int = 256
    attention_size: int = 256
    dropout: float = 0.5
    tie_embedding: bool = True


class TeacherForced(NamedTuple):
    """What `Decoder.forward` gives back, N words in all."""

    logits: Tensor  # (N, V)
    targets: Tensor  # (N,)
    coverage: Tensor | None  # (B, K, L): each region's attention, summed over the caption's words


class Decoder(nn.Module):
    """What all decoders share: the words' side, and teacher forcing over the subclass's recurrence.

    Args:
        config: What the decoder is.
        feature_size: D, the width of the region features.
        vocab_size: V.
        pad: Id of the padding.
    """

    def __init__(self, config: DecoderConfig, feature_size: int, vocab_size: int, pad: int = 0) -> None:
        super().__init__()
        for key in ("hidden_size", "embedding_size", "context_size", "attention_size"):
            if getattr(config, key) < 1:
                raise ConfigError(f"decoder.{key} is {getattr(config, key)}; expected a positive width.")
        if not 0 <= config.dropout < 1:
            raise ConfigError(f"decoder.dropout is {config.dropout}; expected a share from 0 to below 1.")
        self.pad = pad
        self.embedding = nn.Embedding(vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(feature_size, config.context_size)
        self.output = nn.Linear(config.embedding_size, vocab_size)
        nn.init.normal_(self.embedding.weight, std=config.embedding_size**-0.5)
        nn.init.zeros_(self.output.bias)
        if config.tie_embedding:
            self.output.weight = self.embedding.weight

    def start(self, features: Tensor) -> tuple[Arrays, Arrays]:
        """Look at the images once.

        Args:
            features: (B, L, D), the encoder's region features.

        Returns:
            The arrays that all rows of an image share, (B, ...) each; and the first state, (B, H) each.
        """
        raise NotImplementedError

    def recur(self, image: Arrays, state: Arrays, embedded: Tensor) -> tuple[Arrays, Tensor, Tensor | None]:
        """Advance the recurrence by one word.

        Args:
            image: The arrays of `start`.
            state: (B, K, H) each.
            embedded: (B, K, E), the embedded last words.

        Returns:
            The new state, what `predict` reads from it (B, K, R), and the attention (B, K, L) if there is any.
        """
        raise NotImplementedError

    def predict(self, readout: Tensor, embedded: Tensor) -> Tensor:
        """The next word's log-odds (..., V) from a readout (..., R) and the embedded last word (..., E)."""
        raise NotImplementedError

    def step(self, image: Arrays, state: Arrays, words: Tensor) -> tuple[Tensor, Arrays, Tensor | None]:
        """Advance K rows of every image by one word.

        Args:
            image: The arrays of `start`.
            state: (B, K, H) each.
            words: (B, K), each row's last word.

        Returns:
            The next word's log-odds (B, K, V), the new state, and the attention (B, K, L) if there is any.
        """
        embedded = self.dropout(self.embedding(words))  # (B, K, E)
        state, readout, attention = self.recur(image, state, embedded)
        return self.predict(readout, embedded), state, attention

    def forward(self, features: Tensor, captions: Tensor, scheduled_sampling: float = 0.0) -> TeacherForced:
        """Run whole captions, K of each image at once, so that the image's side is computed once.

        Images and captions that have ended are left out of the remaining steps where all after them have ended too:
        captions ordered by falling length, of images ordered by their longest, waste the least.

        Args:
            features: (B, L, D), the encoder's region features.
            captions: (B, K, T) ids, START first, END last, padded; a row of nothing but padding is left out.
            scheduled_sampling: Probability that an input word is one that the model proposed (Bengio et al. 2015).

        Returns:
            Log-odds and targets of all N words after START, ordered by step, image, caption; and the coverage.
        """
        inputs, targets = captions[:, :, :-1], captions[:, :, 1:]
        present = targets != self.pad  # (B, K, T - 1)
        images = _last(present.any(dim=1))  # images still going at each step
        rows = _last(present.any(dim=0))
        image, state = self.start(features)
        state = {name: array.unsqueeze(1).expand(-1, captions.shape[1], -1) for name, array in state.items()}
        embedded = self.dropout(self.embedding(inputs))  # (B, K, T - 1, E)
        coverage: Tensor | None = None
        readouts: list[Tensor] = []
        words: list[Tensor] = []
        for t, (b, k) in enumerate(zip(images, rows, strict=True)):
            if b == 0:
                break
            word = embedded[:b, :k, t]
            if t and scheduled_sampling:
                word = self._mix_proposals(word, readouts[-1][:b, :k], words[-1][:b, :k], scheduled_sampling)
            image = {name: array[:b] for name, array in image.items()}
            state = {name: array[:b, :k] for name, array in state.items()}
            state, readout, attention = self.recur(image, state, word)
            readouts.append(readout)
            words.append(word)
            if attention is not None:
                if coverage is None:
                    coverage = attention.new_zeros(*captions.shape[:2], attention.shape[2])
                seen = attention * present[:b, :k, t, None]
                coverage = coverage + nn.functional.pad(
                    seen, (0, 0, 0, captions.shape[1] - k, 0, captions.shape[0] - b)
                )
        masks = [present[: readout.shape[0], : readout.shape[1], t] for t, readout in enumerate(readouts)]
        logits = self.predict(
            torch.cat([readout[mask] for readout, mask in zip(readouts, masks, strict=True)]),
            torch.cat([word[mask] for word, mask in zip(words, masks, strict=True)]),
        )
        return TeacherForced(logits, targets.permute(2, 0, 1)[present.permute(2, 0, 1)], coverage)

    def _mix_proposals(self, embedded: Tensor, readout: Tensor, last: Tensor, share: float) -> Tensor:
        """Replace a share of the embedded words (B, K, E) by words drawn from the model's own distribution."""
        with torch.no_grad():
            odds = self.predict(readout, last).float()  # (B, K, V)
            proposed = odds.softmax(dim=2).flatten(0, 1).multinomial(1).view(odds.shape[:2])  # (B, K)
            mixed = torch.rand(proposed.shape, device=proposed.device) < share
        return torch.where(mixed.unsqueeze(2), self.dropout(self.embedding(proposed)), embedded)


class ShowTell(Decoder):
    """Show and Tell (Vinyals et al. 2015): the LSTM sees the image once, as its first input."""

    def __init__(self, config: DecoderConfig, feature_size: int, vocab_size: int, pad: int = 0) -> None:
        super().__init__(config, feature_size, vocab_size, pad)
        self.image = nn.Linear(config.context_size, config.embedding_size)
        self.lstm = _lstm_cell(config.embedding_size, config.hidden_size)
        self.readout = nn.Linear(config.hidden_size, config.embedding_size)

    def start(self, features: Tensor) -> tuple[Arrays, Arrays]:
        """See `Decoder.start`; nothing of the image is kept but the state."""
        pooled = torch.relu(self.project(features.mean(dim=1)))  # (B, C)
        hidden, cell = self.lstm(self.image(self.dropout(pooled)))
        return {}, {"hidden": hidden, "cell": cell}

    def recur(self, image: Arrays, state: Arrays, embedded: Tensor) -> tuple[Arrays, Tensor, None]:
        """See `Decoder.recur`."""
        state = _advance(self.lstm, embedded, state)
        return state, state["hidden"], None

    def predict(self, readout: Tensor, embedded: Tensor) -> Tensor:
        """See `Decoder.predict`; the last word has no say of its own here."""
        return self.output(self.dropout(self.readout(self.dropout(readout))))  # type: ignore[no-any-return]


class ShowAttendTell(Decoder):
    """Show, Attend and Tell (Xu et al. 2015): soft attention with a gate (sec. 4.2.1) and deep output (eq. 7)."""

    def __init__(self, config: DecoderConfig, feature_size: int, vocab_size: int, pad: int = 0) -> None:
        super().__init__(config, feature_size, vocab_size, pad)
        self.norm = nn.LayerNorm(config.context_size)
        self.first_state = nn.Linear(config.context_size, 2 * config.hidden_size)
        self.attention = AdditiveAttention(config.context_size, config.hidden_size, config.attention_size)
        self.gate = nn.Linear(config.hidden_size, config.context_size)
        self.lstm = _lstm_cell(config.embedding_size + config.context_size, config.hidden_size)
        self.readout = nn.Linear(config.hidden_size + config.context_size, config.embedding_size)

    def start(self, features: Tensor) -> tuple[Arrays, Arrays]:
        """See `Decoder.start`; regions are projected to values (B, L, C) and attention keys (B, L, A)."""
        values = self.dropout(self.norm(self.project(features)))  # (B, L, C)
        hidden, cell = torch.tanh(self.first_state(values.mean(dim=1))).chunk(2, dim=1)
        return {"values": values, "keys": self.attention.key(values)}, {"hidden": hidden, "cell": cell}

    def recur(self, image: Arrays, state: Arrays, embedded: Tensor) -> tuple[Arrays, Tensor, Tensor]:
        """See `Decoder.recur`."""
        context, attention = self.attention(state["hidden"], image["keys"], image["values"])
        context = torch.sigmoid(self.gate(state["hidden"])) * context  # (B, K, C)
        state = _advance(self.lstm, torch.cat([embedded, context], dim=2), state)
        return state, torch.cat([state["hidden"], context], dim=2), attention

    def predict(self, readout: Tensor, embedded: Tensor) -> Tensor:
        """See `Decoder.predict`."""
        return self.output(self.dropout(embedded + self.readout(self.dropout(readout))))  # type: ignore[no-any-return]


DECODERS: dict[str, type[Decoder]] = {"show_tell": ShowTell, "show_attend_tell": ShowAttendTell}


def _lstm_cell(input_size: int, hidden_size: int) -> nn.LSTMCell:
    """An LSTM cell that remembers at first: its forget gate's bias is one (Jozefowicz et al. 2015)."""
    cell = nn.LSTMCell(input_size, hidden_size)
    nn.init.ones_(cell.bias_ih[hidden_size : 2 * hidden_size])
    return cell


def _advance(lstm: nn.LSTMCell, inputs: Tensor, state: Arrays) -> Arrays:
    """One step of an LSTM cell over rows in a (B, K) grid."""
    b, k, _ = inputs.shape
    hidden, cell = lstm(inputs.flatten(0, 1), (state["hidden"].flatten(0, 1), state["cell"].flatten(0, 1)))
    return {"hidden": hidden.unflatten(0, (b, k)), "cell": cell.unflatten(0, (b, k))}


def _last(going: Tensor) -> list[int]:
    """For each step, how many leading entries reach the last one that is still going; `going` is (entries, T)."""
    counts = torch.arange(1, going.shape[0] + 1, device=going.device).unsqueeze(1)
    return (going * counts).amax(dim=0).tolist()
