"""A captioner with known dependencies: each word depends on the brightness of one patch."""

from collections.abc import Sequence

import numpy as np

from captioner.decoding import DecodingOptions, Step
from captioner.inference import Captioner
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import END, SPECIAL_WORDS, Vocabulary

SIZE, CELLS = 56, 7  # pixels and patches a side
GRID = (CELLS, CELLS)
Cell = tuple[int, int]


class PatchStepper:
    """Says the words in order, with their patches' brightness as probability; the rest is "not"."""

    classes = None

    def __init__(
        self, light: np.ndarray, cells: Sequence[Cell], looks: Sequence[Cell], vocab_size: int
    ) -> None:
        self.batch_size, self.cells, self.looks, self.vocab_size = (
            len(light),
            cells,
            looks,
            vocab_size,
        )
        self._light = light  # (B, CELLS, CELLS)
        self._said = np.zeros((self.batch_size, 1), np.int64)  # words, of each row
        self._images = np.arange(self.batch_size)

    def step(
        self, parents: np.ndarray, words: np.ndarray, k: int, *, all_log_probs: bool = False
    ) -> Step:
        beams = self._said.shape[1]
        self._images = self._images[parents[:, 0] // beams]
        said = self._said.ravel()[parents]  # (B, K)
        self._said = said + 1
        log_probs = np.full((*parents.shape, self.vocab_size), -np.inf, np.float32)
        attention = np.full((*parents.shape, CELLS * CELLS), 0.001, np.float32)
        for row in np.ndindex(parents.shape):
            t = said[row]
            if t >= len(self.cells):
                log_probs[(*row, END)] = 0
                continue
            log_prob = -np.logaddexp(0, -4 * self._light[self._images[row[0]]][self.cells[t]])
            log_probs[(*row, 4 + t)] = log_prob
            log_probs[(*row, self.vocab_size - 1)] = np.log1p(-np.exp(log_prob))
            attention[(*row, self.looks[t][0] * CELLS + self.looks[t][1])] += 1
        best = np.argsort(-log_probs, axis=2, kind="stable")[..., :k]
        attention /= attention.sum(axis=2, keepdims=True)
        return Step(best, np.take_along_axis(log_probs, best, axis=2), attention, log_probs)

    def again(self, images: np.ndarray) -> "PatchStepper":
        return PatchStepper(self._light[images], self.cells, self.looks, self.vocab_size)


class PatchBackend:
    """Encodes images as the mean of each patch."""

    def __init__(
        self, cells: Sequence[Cell], looks: Sequence[Cell] | None, vocab_size: int
    ) -> None:
        self.cells, self.looks, self.vocab_size = (
            cells,
            cells if looks is None else looks,
            vocab_size,
        )
        self.largest = 0

    def encode(self, pixels: np.ndarray) -> PatchStepper:
        self.largest = max(self.largest, len(pixels))
        side = SIZE // CELLS
        light = pixels.reshape(len(pixels), 3, CELLS, side, CELLS, side).mean(axis=(1, 3, 5))
        return PatchStepper(light, self.cells, self.looks, self.vocab_size)


def patch_captioner(cells: Sequence[Cell], looks: Sequence[Cell] | None = None) -> Captioner:
    """A captioner whose words depend on `cells`, and that looks there, or where it is told to."""
    vocabulary = Vocabulary(
        [*SPECIAL_WORDS, *(f"word{number}" for number in range(len(cells))), "not"]
    )
    backend = PatchBackend(cells, looks, len(vocabulary))
    options = DecodingOptions(beam_size=1, max_length=len(cells), no_repeat_ngram=0)
    return Captioner(
        backend, vocabulary, Preprocessing(size=SIZE, interpolation="bilinear"), options
    )
