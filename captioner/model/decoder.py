"""The LSTM decoders behind one small interface.

A decoder turns region features into the logits of the next word. `start` processes the features
once per image, `step` advances K rows of every image by one word (beams in search), and `forward`
runs whole captions (teacher forcing) through the same recurrence, so both give the same logits.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.errors import ConfigError
from captioner.model.attention import AdditiveAttention
from captioner.model.beams import Beams, spread
from captioner.model.pointing import Pointer

Arrays = dict[str, Tensor]

_TAGS = "tags"  # the pointer's array of an image


@dataclass(frozen=True)
class DecoderConfig:
    """The architecture of a decoder.

    Args:
        name: One of `DECODERS`: "show_tell" (Vinyals et al. 2015), "show_attend_tell" (Xu et al.
            2015, gated soft attention) or "up_down" (Anderson et al. 2018, soft attention between
            two LSTMs).
        hidden_size: H, the width of each LSTM.
        embedding_size: E, the width of the word embedding.
        context_size: C, the width to which image regions are projected, once per image.
        attention_size: A, the width in which attention compares; unused by "show_tell".
        dropout: Dropout probability of the embedding, the regions and the output.
        tie_embedding: Use the word embedding as output layer too (Press and Wolf 2017).
        pointer: Let the decoder point to the words of tags too; see `Pointer`.

    Raises:
        ConfigError: There is no decoder of this name.
    """

    name: str = "show_attend_tell"
    hidden_size: int = 512
    embedding_size: int = 256
    context_size: int = 256
    attention_size: int = 256
    dropout: float = 0.5
    tie_embedding: bool = True
    pointer: bool = False

    def __post_init__(self) -> None:
        """Check the name."""
        if self.name not in DECODERS:
            raise ConfigError(
                f"decoder.name is {self.name!r}; expected one of: {', '.join(DECODERS)}."
            )


class TeacherForced(NamedTuple):
    """The result of `Decoder.forward`, for N words in all."""

    logits: Tensor  # (N, V)
    targets: Tensor  # (N,)
    rows: Tensor  # (N,): the index of each word's caption, of the B * K captions
    coverage: Tensor | None  # (B, K, L): each region's attention, summed over the caption's words


class Decoder(nn.Module):
    """Base class of decoders: embedding, output, and teacher forcing with a subclass's recurrence.

    Args:
        config: The decoder's config.
        feature_size: D, the width of the region features.
        vocab_size: V.
        pad: Id of the padding.
    """

    def __init__(
        self, config: DecoderConfig, feature_size: int, vocab_size: int, pad: int = 0
    ) -> None:
        super().__init__()
        for key in ("hidden_size", "embedding_size", "context_size", "attention_size"):
            if getattr(config, key) < 1:
                raise ConfigError(
                    f"decoder.{key} is {getattr(config, key)}; expected a positive width."
                )
        if not 0 <= config.dropout < 1:
            raise ConfigError(
                f"decoder.dropout is {config.dropout}; expected a share from 0 to below 1."
            )
        self.pad = pad
        self.embedding = nn.Embedding(vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(feature_size, config.context_size)
        self.output = nn.Linear(config.embedding_size, vocab_size)
        self.pointer: Pointer | None = None
        nn.init.normal_(self.embedding.weight, std=config.embedding_size**-0.5)
        nn.init.zeros_(self.output.bias)
        if config.tie_embedding:
            self.output.weight = self.embedding.weight

    def add_pointer(self) -> None:
        """Let the decoder point to the words of tags, by a new `Pointer`.

        Raises:
            ConfigError: The decoder has no linear layer `readout`, whose input tells R.
        """
        readout = getattr(self, "readout", None)
        if not isinstance(readout, nn.Linear):
            raise ConfigError(
                f"{type(self).__name__} has no linear layer `readout`, which decoder.pointer"
                " requires."
            )
        self.pointer = Pointer(readout.in_features, self.embedding.embedding_dim)
        self.pointer.to(self.embedding.weight.device)

    def prepare(self, features: Tensor) -> tuple[Arrays, Arrays]:
        """Process the images once, as `start` does; with a pointer, for it too.

        Args:
            features: (B, L, D), the encoder's region features.
        """
        image, state = self.start(features)
        if self.pointer is not None:
            image = image | {_TAGS: self.pointer.tags(features)}
        return image, state

    def start(self, features: Tensor) -> tuple[Arrays, Arrays]:
        """Process the images once.

        Args:
            features: (B, L, D), the encoder's region features.

        Returns:
            The arrays that all rows of an image share, (B, ...) each; and the first state, (B, H)
            each.
        """
        raise NotImplementedError

    def recur(
        self, image: Arrays, state: Arrays, embedded: Tensor
    ) -> tuple[Arrays, Tensor, Tensor | None]:
        """Advance the recurrence by one word.

        Args:
            image: The arrays of `start`.
            state: (B, K, H) each.
            embedded: (B, K, E), the embedded last words.

        Returns:
            The new state, the readout for `predict` (B, K, R), and the attention (B, K, L) if there
            is any.
        """
        raise NotImplementedError

    def predict(self, readout: Tensor, embedded: Tensor) -> Tensor:
        """Compute the logits of the next word.

        Args:
            readout: (..., R), from `recur`.
            embedded: (..., E), the embedded last word.

        Returns:
            (..., V).
        """
        raise NotImplementedError

    def step(
        self, image: Arrays, state: Arrays, words: Tensor
    ) -> tuple[Tensor, Arrays, Tensor | None]:
        """Advance K rows of every image by one word.

        Args:
            image: The arrays of `prepare`.
            state: (B, K, H) each.
            words: (B, K), each row's last word.

        Returns:
            The logits of the next word (B, K, V), the new state, and the attention (B, K, L) if
            there is any.
        """
        embedded = self.dropout(self.embedding(words))  # (B, K, E)
        state, readout, attention = self.recur(image, state, embedded)
        return self._score(readout, embedded, self._tags(image)), state, attention

    def _score(self, readout: Tensor, embedded: Tensor, tags: Tensor | None) -> Tensor:
        """Compute the logits of the next word (..., V), with the pointer's share if there is one.

        Args:
            readout: (..., R), from `recur`.
            embedded: (..., E), the embedded last word.
            tags: (..., T), of `Pointer.tags`; None without a pointer.
        """
        logits = self.predict(readout, embedded)
        if self.pointer is None or tags is None:
            return logits
        joint: Tensor = self.pointer(logits, readout, embedded, tags, self.embedding.weight)
        return joint

    @staticmethod
    def _tags(image: Arrays) -> Tensor | None:
        """Return the tags of each image for its rows (B, 1, T); None without a pointer."""
        return image[_TAGS].unsqueeze(1) if _TAGS in image else None

    def step_beams(
        self, image: Arrays, state: Arrays, beams: Beams
    ) -> tuple[Tensor, Arrays, Tensor | None]:
        """Advance the beams of every image by one word, in inference.

        A subclass may compute once what beams with the same parent or the same last word share.

        Args:
            image: The arrays of `prepare`.
            state: (R, H) each, the rows of the last step.
            beams: The rows and words that they continue.

        Returns:
            As `step` does.
        """
        rows = spread(beams.rows, beams.row_of)
        chosen = {name: spread(array, rows) for name, array in state.items()}
        return self.step(image, chosen, spread(beams.words, beams.word_of))

    def forward(
        self, features: Tensor, captions: Tensor, scheduled_sampling: float = 0.0
    ) -> TeacherForced:
        """Run whole captions, K of each image at once, so that each image is processed once.

        A step skips the ended images and captions that no unfinished one follows. So the fastest
        order is captions by decreasing length, and images by their longest caption.

        Args:
            features: (B, L, D), the encoder's region features.
            captions: (B, K, T) ids, START first, END last, padded; a row of only padding is
                skipped. With features on a GPU, leave them on the CPU, so that the GPU is not
                synchronised.
            scheduled_sampling: Probability that an input word is sampled from the model's own
                predictions (Bengio et al. 2015).

        Returns:
            The logits, targets and captions of all N words after START, ordered by step, image,
            caption; and the coverage.
        """
        going = (
            captions[:, :, 1:] != self.pad
        ).cpu()  # (B, K, T - 1), on the CPU because control flow depends on it
        running = _last(going.any(dim=1))  # images still going at each step
        rows = _last(going.any(dim=0))
        captions = _to(captions, features.device)
        inputs, targets = captions[:, :, :-1], captions[:, :, 1:]
        present = targets != self.pad
        image, state = self.prepare(features)
        tags = image.get(_TAGS)  # (B, T)
        state = {
            name: array.unsqueeze(1).expand(-1, captions.shape[1], -1)
            for name, array in state.items()
        }
        embedded = self.dropout(self.embedding(inputs))  # (B, K, T - 1, E)
        coverage: Tensor | None = None
        readouts: list[Tensor] = []
        words: list[Tensor] = []
        for t, (b, k) in enumerate(zip(running, rows, strict=True)):
            if (
                t and b == 0
            ):  # run the first step even for an empty batch, to give it its shape and gradient
                break
            word = embedded[:b, :k, t]
            image = {name: array[:b] for name, array in image.items()}
            if t and scheduled_sampling:
                word = self._mix_proposals(
                    word,
                    (readouts[-1][:b, :k], words[-1][:b, :k], self._tags(image)),
                    scheduled_sampling,
                )
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
        ran = [(t, *readout.shape[:2]) for t, readout in enumerate(readouts)]
        index = (
            torch.cat([going[:b, :k, t].flatten() for t, b, k in ran]).nonzero().squeeze(1)
        )  # (N,)
        grid = torch.arange(captions.shape[0] * captions.shape[1]).view(captions.shape[:2])
        row = torch.cat([grid[:b, :k].flatten() for _, b, k in ran])[index]
        index, row = _to(index, features.device), _to(row, features.device)
        expected = [targets[:b, :k, t] for t, b, k in ran]
        readout, word, target = (
            torch.cat([step.flatten(0, 1) for step in steps]).index_select(0, index)
            for steps in (readouts, words, expected)
        )
        if tags is not None:
            tags = tags.index_select(0, row // captions.shape[1])  # (N, T)
        return TeacherForced(self._score(readout, word, tags), target, row, coverage)

    def _mix_proposals(
        self, embedded: Tensor, before: tuple[Tensor, Tensor, Tensor | None], share: float
    ) -> Tensor:
        """Replace a share of the embedded words (B, K, E) by words sampled from the predictions.

        These are computed from `before`, the arguments of `_score` in the last step.
        """
        with torch.no_grad():
            odds = self._score(*before).float()  # (B, K, V), logits
            proposed = (
                odds.softmax(dim=2).flatten(0, 1).multinomial(1).view(odds.shape[:2])
            )  # (B, K)
            mixed = torch.rand(proposed.shape, device=proposed.device) < share
        return torch.where(mixed.unsqueeze(2), self.dropout(self.embedding(proposed)), embedded)


class ShowTell(Decoder):
    """Show and Tell (Vinyals et al. 2015): the LSTM sees the image once, as its first input."""

    def __init__(
        self, config: DecoderConfig, feature_size: int, vocab_size: int, pad: int = 0
    ) -> None:
        super().__init__(config, feature_size, vocab_size, pad)
        self.image = nn.Linear(config.context_size, config.embedding_size)
        self.lstm = _lstm_cell(config.embedding_size, config.hidden_size)
        self.readout = nn.Linear(config.hidden_size, config.embedding_size)

    def start(self, features: Tensor) -> tuple[Arrays, Arrays]:
        """See `Decoder.start`; the image is kept only in the state."""
        pooled = torch.relu(self.project(features.mean(dim=1)))  # (B, C)
        hidden, cell = self.lstm(self.image(self.dropout(pooled)))
        return {}, {"hidden": hidden, "cell": cell}

    def recur(self, image: Arrays, state: Arrays, embedded: Tensor) -> tuple[Arrays, Tensor, None]:
        """See `Decoder.recur`."""
        hidden, cell = _advance(self.lstm, embedded, state["hidden"], state["cell"])
        return {"hidden": hidden, "cell": cell}, hidden, None

    def predict(self, readout: Tensor, embedded: Tensor) -> Tensor:
        """See `Decoder.predict`; the last word is not used directly here."""
        return self.output(self.dropout(self.readout(self.dropout(readout))))  # type: ignore[no-any-return]


class ShowAttendTell(Decoder):
    """Show, Attend and Tell (Xu et al. 2015).

    Soft attention with a gate (sec. 4.2.1) and deep output (eq. 7).
    """

    def __init__(
        self, config: DecoderConfig, feature_size: int, vocab_size: int, pad: int = 0
    ) -> None:
        super().__init__(config, feature_size, vocab_size, pad)
        self.norm = nn.LayerNorm(config.context_size)
        self.first_state = nn.Linear(config.context_size, 2 * config.hidden_size)
        self.attention = AdditiveAttention(
            config.context_size, config.hidden_size, config.attention_size
        )
        self.gate = nn.Linear(config.hidden_size, config.context_size)
        self.lstm = _lstm_cell(config.embedding_size + config.context_size, config.hidden_size)
        self.readout = nn.Linear(config.hidden_size + config.context_size, config.embedding_size)

    def start(self, features: Tensor) -> tuple[Arrays, Arrays]:
        """See `Decoder.start`; regions become values (B, L, C) and attention keys (B, L, A)."""
        values = self.dropout(self.norm(self.project(features)))  # (B, L, C)
        hidden, cell = torch.tanh(self.first_state(values.mean(dim=1))).chunk(2, dim=1)
        return {"values": values, "keys": self.attention.key(values)}, {
            "hidden": hidden,
            "cell": cell,
        }

    def recur(
        self, image: Arrays, state: Arrays, embedded: Tensor
    ) -> tuple[Arrays, Tensor, Tensor]:
        """See `Decoder.recur`."""
        context, attention = self.attention(state["hidden"], image["keys"], image["values"])
        context = torch.sigmoid(self.gate(state["hidden"])) * context  # (B, K, C)
        hidden, cell = _advance(
            self.lstm, torch.cat([embedded, context], dim=2), state["hidden"], state["cell"]
        )
        return {"hidden": hidden, "cell": cell}, torch.cat([hidden, context], dim=2), attention

    def step_beams(
        self, image: Arrays, state: Arrays, beams: Beams
    ) -> tuple[Tensor, Arrays, Tensor]:
        """See `Decoder.step_beams`; all but the last word's embedding depends on the parent."""
        hidden, cell = (spread(state[name], beams.rows) for name in ("hidden", "cell"))  # (P, H)
        query = spread(self.attention.query(hidden), beams.row_of)  # (B, K, A)
        context, attention = self.attention.attend(query, image["keys"], image["values"])
        context = spread(context.flatten(0, 1), beams.first)  # (P, C)
        context = torch.sigmoid(self.gate(hidden)) * context
        lstm, embedded = self.lstm, self.embedding(beams.words)  # (W, E)
        of_word, of_context = torch.split(
            lstm.weight_ih, [embedded.shape[1], context.shape[1]], dim=1
        )
        gates = nn.functional.linear(hidden, lstm.weight_hh, lstm.bias_ih + lstm.bias_hh)
        gates = torch.addmm(gates, context, of_context.t())  # (P, 4 * H)
        words = nn.functional.linear(embedded, of_word)  # (W, 4 * H)
        gates = spread(gates, beams.row_of) + spread(words, beams.word_of)  # (B, K, 4 * H)
        enter, keep, new, leave = gates.chunk(4, dim=2)
        cell = torch.sigmoid(keep) * spread(cell, beams.row_of)
        cell = cell + torch.sigmoid(enter) * torch.tanh(new)  # (B, K, H)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        context, embedded = (
            spread(rows, index.flatten())
            for rows, index in ((context, beams.row_of), (embedded, beams.word_of))
        )  # (B * K, C), (B * K, E): of two dimensions, so that biases become part of the products
        readout = torch.cat([hidden.flatten(0, 1), context], dim=1)
        tags = self._tags(image)
        if tags is not None:
            tags = tags.expand(-1, beams.word_of.shape[1], -1).flatten(0, 1)  # (B * K, T)
        logits = self._score(readout, embedded, tags)
        logits = logits.view(*beams.word_of.shape, logits.shape[1])
        return logits, {"hidden": hidden, "cell": cell}, attention

    def predict(self, readout: Tensor, embedded: Tensor) -> Tensor:
        """See `Decoder.predict`."""
        return self.output(self.dropout(embedded + self.readout(self.dropout(readout))))  # type: ignore[no-any-return]


class UpDown(Decoder):
    """Up-Down (Anderson et al. 2018, sec. 3.2) on a grid: an attention and a language LSTM."""

    def __init__(
        self, config: DecoderConfig, feature_size: int, vocab_size: int, pad: int = 0
    ) -> None:
        super().__init__(config, feature_size, vocab_size, pad)
        context, hidden = config.context_size, config.hidden_size
        self.norm = nn.LayerNorm(context)
        self.attention_lstm = _lstm_cell(hidden + context + config.embedding_size, hidden)
        self.attention = AdditiveAttention(context, hidden, config.attention_size)
        self.language_lstm = _lstm_cell(context + hidden, hidden)
        self.readout = nn.Linear(hidden, config.embedding_size)

    def start(self, features: Tensor) -> tuple[Arrays, Arrays]:
        """See `Decoder.start`; the states are zeros.

        Gives values (B, L, C), attention keys (B, L, A) and the values' mean (B, C).
        """
        values = self.dropout(self.norm(self.project(features)))  # (B, L, C)
        image = {"values": values, "keys": self.attention.key(values), "mean": values.mean(dim=1)}
        size = values.shape[0], self.attention_lstm.hidden_size
        return image, {name: values.new_zeros(size) for name in ("h1", "c1", "h2", "c2")}

    def recur(
        self, image: Arrays, state: Arrays, embedded: Tensor
    ) -> tuple[Arrays, Tensor, Tensor]:
        """See `Decoder.recur`; 1 is the attention LSTM and 2 the language LSTM, as in the paper."""
        h1, c1, h2, c2 = (state[name] for name in ("h1", "c1", "h2", "c2"))
        mean = image["mean"].unsqueeze(1).expand(-1, embedded.shape[1], -1)  # (B, K, C)
        h1, c1 = _advance(
            self.attention_lstm, torch.cat([h2, mean, embedded], dim=2), h1, c1
        )  # eq. 2
        context, attention = self.attention(h1, image["keys"], image["values"])  # eq. 3-5
        h2, c2 = _advance(self.language_lstm, torch.cat([context, h1], dim=2), h2, c2)  # eq. 6
        return {"h1": h1, "c1": c1, "h2": h2, "c2": c2}, h2, attention

    def predict(self, readout: Tensor, embedded: Tensor) -> Tensor:
        """See `Decoder.predict`; the last word is not used directly here (eq. 7)."""
        return self.output(self.dropout(self.readout(self.dropout(readout))))  # type: ignore[no-any-return]


DECODERS: dict[str, type[Decoder]] = {
    "show_tell": ShowTell,
    "show_attend_tell": ShowAttendTell,
    "up_down": UpDown,
}


def _lstm_cell(input_size: int, hidden_size: int) -> nn.LSTMCell:
    """Create an LSTM cell whose forget gate's bias is one (Jozefowicz et al. 2015)."""
    cell = nn.LSTMCell(input_size, hidden_size)
    nn.init.ones_(cell.bias_ih[hidden_size : 2 * hidden_size])
    return cell


def _advance(
    lstm: nn.LSTMCell, inputs: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Run one LSTM step over rows in a (B, K) grid; return the new hidden state and cell."""
    b, k, _ = inputs.shape
    hidden, cell = lstm(inputs.flatten(0, 1), (hidden.flatten(0, 1), cell.flatten(0, 1)))
    return hidden.view(b, k, lstm.hidden_size), cell.view(b, k, lstm.hidden_size)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; asynchronously only on CUDA, as elsewhere the copy may read freed memory."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def _last(going: Tensor) -> list[int]:
    """Count, for each step, the entries up to the last unfinished one; `going` is (entries, T)."""
    counts = torch.arange(1, going.shape[0] + 1, device=going.device).unsqueeze(1)
    return (going * counts).amax(dim=0).tolist()
