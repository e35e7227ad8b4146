"""A model given by a table, and reference searches that are simple enough to be trusted."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from captioner.decoding import DecodingOptions, Step
from captioner.vocabulary import END, PAD, START, UNKNOWN

Prefix = tuple[int, ...]
REGIONS = 3


class Table:
    """Next-word log-probabilities of one image, random for each prefix.

    `rounded` leaves few different values, so that there are many ties, words that cost nothing, and
    impossible ones.
    """

    def __init__(
        self, seed: int, vocab_size: int, *, rounded: bool = False, end_bias: float = 0.0
    ) -> None:
        self.seed, self.vocab_size, self.rounded, self.end_bias = (
            seed,
            vocab_size,
            rounded,
            end_bias,
        )
        self._rows: dict[Prefix, np.ndarray] = {}

    def log_probs(self, prefix: Prefix) -> np.ndarray:  # (V,) float32
        if prefix not in self._rows:
            random = self._random(prefix)
            # After some prefixes one word is nearly certain, after others all are alike.
            logits = random.normal(size=self.vocab_size) * random.choice([1, 8])
            logits[[PAD, START, UNKNOWN]] -= random.choice([0, 20])
            logits[END] += self.end_bias
            row = logits - np.log(np.exp(logits).sum())
            if self.rounded:
                row = np.where(row < -9, -np.inf, np.ceil(row))
            self._rows[prefix] = row.astype(np.float32)
        return self._rows[prefix]

    def write(self, prefix: Prefix, log_probs: dict[int, float]) -> None:
        """Replace what follows a prefix; words that aren't mentioned become impossible."""
        self._rows[prefix] = np.array(
            [log_probs.get(word, -np.inf) for word in range(self.vocab_size)], np.float32
        )

    def attention(self, prefix: Prefix) -> np.ndarray:  # (L,) float32
        return self._random((9999, *prefix)).random(REGIONS).astype(np.float32)

    def _random(self, prefix: Prefix) -> np.random.Generator:
        return np.random.default_rng((self.seed, *prefix))


class TableStepper:
    """A `Stepper` that looks up the table, and checks that the search keeps its contract."""

    def __init__(self, tables: Sequence[Table], *, attention: bool = True) -> None:
        self.tables, self.with_attention = tables, attention
        self.batch_size = len(tables)
        self.rows: list[tuple[int, Prefix, set[int]]] = [
            (image, (), {START}) for image in range(len(tables))
        ]
        self.shapes: list[tuple[int, ...]] = []

    def step(
        self, parents: np.ndarray, words: np.ndarray, k: int, *, all_log_probs: bool = False
    ) -> Step:
        vocab_size = self.tables[0].vocab_size
        assert parents.dtype == words.dtype == np.int64
        assert parents.shape == words.shape
        assert parents.flags.c_contiguous and words.flags.c_contiguous
        assert 1 <= k <= vocab_size
        self.shapes.append((*words.shape, k))
        rows = []
        for parent, word in zip(parents.ravel().tolist(), words.ravel().tolist(), strict=True):
            assert 0 <= parent < len(self.rows)
            image, prefix, offered = self.rows[parent]
            assert word in offered, "a beam's last word was never offered to the row it continues"
            rows.append((image, (*prefix, word) if word != START else prefix))
        images = np.array([image for image, _ in rows]).reshape(words.shape)
        assert (images == images[:, :1]).all(), "the beams of an image come from different images"
        assert (np.diff(images[:, 0]) > 0).all(), "the images changed their order"

        full = np.stack(
            [self.tables[image].log_probs(prefix) for image, prefix in rows]
        )  # (B * K, V)
        best = np.argsort(-full, axis=1, kind="stable")[:, :k]
        everything = set(range(vocab_size))
        self.rows = [
            (*row, everything if all_log_probs else set(offer))
            for row, offer in zip(rows, best.tolist(), strict=True)
        ]
        looked = np.stack([self.tables[image].attention(prefix) for image, prefix in rows])
        return Step(
            words=best.reshape(*words.shape, k),
            log_probs=np.take_along_axis(full, best, axis=1).reshape(*words.shape, k),
            attention=looked.reshape(*words.shape, REGIONS) if self.with_attention else None,
            all_log_probs=full.reshape(*words.shape, vocab_size) if all_log_probs else None,
        )


def may_follow(
    prefix: Prefix, word: int, options: DecodingOptions, endings: frozenset[int]
) -> bool:
    """The rules of a caption, read off the options one by one."""
    if word == END:
        return len(prefix) >= options.min_length and not (prefix and prefix[-1] in endings)
    if len(prefix) == options.max_length - 1 and word in endings:
        return False
    if not options.repeat_words and repeats_word(prefix, word, endings):
        return False
    caption, n = (*prefix, word), options.no_repeat_ngram
    ngrams = [caption[i : i + n] for i in range(len(caption) - n + 1)] if n else []
    return word > UNKNOWN and len(prefix) < options.max_length and len(set(ngrams)) == len(ngrams)


def repeats_word(prefix: Prefix, word: int, endings: frozenset[int]) -> bool:
    """Whether a word follows itself, or was there before and may not, as endings may."""
    return prefix[-1:] == (word,) or (bool(endings) and word in prefix and word not in endings)


def log_prob(table: Table, caption: Prefix) -> float:
    """Sum the table over a caption (with END, if it has one)."""
    return math.fsum(float(table.log_probs(caption[:i])[word]) for i, word in enumerate(caption))


def score(table: Table, caption: Prefix, options: DecodingOptions) -> float:
    length = len(caption) if caption and caption[-1] == END else len(caption) + 1
    return log_prob(table, caption) / length**options.length_penalty


def all_captions(
    table: Table, options: DecodingOptions, endings: frozenset[int]
) -> Iterator[Prefix]:
    """Every caption with END that the rules allow and that is not impossible."""
    for length in range(options.max_length + 1):
        for words in itertools.product(range(UNKNOWN + 1, table.vocab_size), repeat=length):
            caption = (*words, END)
            allowed = all(
                may_follow(caption[:i], word, options, endings) for i, word in enumerate(caption)
            )
            if allowed and log_prob(table, caption) > -math.inf:
                yield caption


def plain_greedy(
    table: Table, options: DecodingOptions, endings: frozenset[int]
) -> tuple[Prefix, bool]:
    """Take the best allowed word until it is END; the lower id of equal ones."""
    prefix: Prefix = ()
    while True:
        row = table.log_probs(prefix)
        allowed = [
            w
            for w in range(table.vocab_size)
            if row[w] > -np.inf and may_follow(prefix, w, options, endings)
        ]
        if not allowed:
            return prefix, False
        word = max(allowed, key=lambda w: (row[w], -w))
        if word == END:
            return prefix, True
        prefix = (*prefix, word)


def plain_beam_search(
    table: Table, options: DecodingOptions, endings: frozenset[int]
) -> list[tuple[Prefix, bool]]:
    """The documented beam search for one image, without arrays, early stopping or dropped beams."""
    beams: list[tuple[float, Prefix]] = [(0.0, ())]
    finished: list[tuple[float, Prefix]] = []
    while True:
        going, ending = [], []
        for rank, (total, prefix) in enumerate(beams):
            row = table.log_probs(prefix)
            for word in range(table.vocab_size):
                if row[word] > -np.inf and may_follow(prefix, word, options, endings):
                    (ending if word == END else going).append(
                        (total + float(row[word]), rank, word)
                    )
        going.sort(key=lambda candidate: (-candidate[0], candidate[1], candidate[2]))
        for total, rank, _ in ending:
            if sum(other > total for other, _, _ in going) < options.beam_size:
                words = beams[rank][1]
                finished.append((total / (len(words) + 1) ** options.length_penalty, words))
        if not going or (options.beam_size == 1 and finished):
            break
        beams = [
            (total, (*beams[rank][1], word)) for total, rank, word in going[: options.beam_size]
        ]
    finished.sort(key=lambda caption: -caption[0])
    ranked = finished or beams
    return [(words, bool(finished)) for _, words in ranked[: options.alternatives]]
