"""Greedy decoding, beam search and sampling with any model that predicts the next word.

The beam search works as follows, independently for each image:

- A beam is a partial caption. Its candidates are the words that may come next, without pad, start,
  unknown and words of probability 0. A candidate's value is the log-probability of the whole
  caption up to and including it.
- The `beam_size` best candidates other than END become the next beams. END finishes a caption if
  fewer than `beam_size` of those candidates of the image are better, so that END would have had a
  place among them.
- After `max_length` words END is the only candidate: its log-probability counts, and the caption is
  finished. So a caption of `max_length` words doesn't end with a forbidden ending either.
- Finished captions are ranked by log_prob / length**length_penalty. The search of an image ends
  when no beam can still get among its N best (N = `alternatives`). A beam that cannot is dropped
  even earlier: log-probabilities only fall, so neither it nor a less probable beam that takes its
  place could change the result.
- With `beam_size` 1 the first END that is chosen finishes the caption, whatever the length penalty:
  greedy decoding.
- If captions must include words (`constraints.inclusion`), candidates compete only with those that
  lack the same number of these words: each such bank keeps its `beam_size` best. END is a candidate
  of beams that lack nothing. Even with `beam_size` 1 the caption is the best of those that end. See
  `inclusion.py`.
- An image without a finished caption (its beams may not end, or cannot continue) gets its best
  unfinished ones.

So the result is exact, the N best of all captions, whenever `beam_size` is above the number of word
sequences of any one length up to `max_length`. Equal candidates are ranked by beam, then as the
stepper ranks them (it should put the lower word id first); END wins ties. None of this depends on
the other images of the batch.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from captioner.decoding.arrays import BoolArray, Float32Array, FloatArray, IntArray
from captioner.decoding.constraints import Constraints
from captioner.decoding.inclusion import Inclusion, Progress
from captioner.decoding.options import DecodingOptions
from captioner.decoding.sampling import draw, uniform_numbers
from captioner.vocabulary import END, NEVER, UNKNOWN

__all__ = ["Constraints", "DecodingOptions", "Hypothesis", "Step", "Stepper", "search"]

# A caption that ended or was given up: where its back pointers start, and its scores. A log_prob of
# -inf means none yet.
ENDING = np.dtype(
    [("score", "f8"), ("log_prob", "f8"), ("length", "i8"), ("row", "i8"), ("finished", "?")]
)
NO_ENDING = np.array((-np.inf, -np.inf, 0, 0, False), ENDING)


@dataclass(frozen=True)
class Step:
    """A model's predictions of the words that follow each beam.

    Attributes:
        words: (B, K, k) the ids of the k most probable next words, best first, ties in the order of
            their ids.
        log_probs: (B, K, k) their log-probabilities under the full softmax over the vocabulary.
        attention: (B, K, L) the attention weights of the next word; None for models without
            attention.
        all_log_probs: (B, K, V) the log-probabilities of all words, if requested.
    """

    words: IntArray
    log_probs: Float32Array
    attention: Float32Array | None = None
    all_log_probs: Float32Array | None = None


class Stepper(Protocol):
    """Decodes a batch of encoded images; holds the decoder states of the last step."""

    @property
    def batch_size(self) -> int:
        """B, the number of encoded images."""

    def step(
        self, parents: IntArray, words: IntArray, k: int, *, all_log_probs: bool = False
    ) -> Step:
        """Feed each beam's last word to the model and predict the next one.

        Args:
            parents: (B, K) for each image still in the search and each of its beams, the row of the
                previous step that it continues. Rows are counted over the previous step's (B, K)
                grid: row = image * K + beam. Before the first step there is one row per image. All
                beams of an image come from that image's rows; an image that is done is dropped by
                leaving its rows out; the others keep their order.
            words: (B, K) each beam's last word, a start token at first.
            k: How many of the most probable next words to return, at most V.
            all_log_probs: Whether to return the log-probabilities of all V words.
        """


@dataclass(frozen=True)
class Hypothesis:
    """A caption in word ids.

    Attributes:
        words: The words, without `START` and `END`.
        log_prob: The natural logarithm of the caption's probability: the sum over its words and
            `END`, or over its words if it is unfinished.
        word_log_probs: The log-probability of each word given those before it.
        score: log_prob / (number of words + 1)**length_penalty.
        attention: (T, L) the attention weights of each word; None for models without attention.
        finished: Whether it ended with `END`.
    """

    words: tuple[int, ...]
    log_prob: float
    word_log_probs: tuple[float, ...]
    score: float
    attention: Float32Array | None = field(compare=False)
    finished: bool


def search(
    stepper: Stepper,
    options: DecodingOptions,
    constraints: Constraints,
    *,
    first_image: int = 0,
    least: FloatArray | None = None,
) -> list[list[Hypothesis]]:
    """Find captions for a batch of images.

    Args:
        stepper: The encoded images, before their first step.
        options: The decoding options.
        constraints: The constraints on captions.
        first_image: The index of the batch's first image among all images captioned with the same
            seed, so that samples don't depend on how images are batched.
        least: (B,) the log-probability that a caption of each image needs to be of any use: beams
            and captions below it are dropped. None keeps all.

    Returns:
        For each image 1 to `options.alternatives` hypotheses, best score first. They are distinct
        unless sampled, and unfinished only where an image has no finished one.
    """
    images = np.arange(stepper.batch_size, dtype=np.int64)  # (B,) those still in the search
    least = np.full(images.size, -np.inf) if least is None else least
    endings = np.full((images.size, options.alternatives), NO_ENDING)
    divisors = np.arange(1, options.max_length + 2) ** float(
        options.length_penalty
    )  # by number of words
    greedy = np.full(images.size, options.beam_size == 1 and not options.sample)
    inclusion = constraints.inclusion
    if inclusion is not None:
        assert not options.sample
        greedy &= ~inclusion.asks(images)
    if options.sample:
        numbers = uniform_numbers(
            options.seed, first_image + images, options.alternatives, options.max_length
        )

    parents: IntArray = np.repeat(
        images[:, None], options.alternatives if options.sample else 1, axis=1
    )  # (B, K)
    words: IntArray = np.full(parents.shape, constraints.start, np.int64)
    log_probs = np.zeros(parents.shape)  # of the words
    totals = np.zeros(
        parents.shape
    )  # of the captions so far; -inf where an image has fewer than K beams
    history = np.zeros((*parents.shape, 0), np.int64)  # (B, K, T) the words without START
    trail: list[_Layer] = []

    for length in range(options.max_length + 1):
        if not images.size:
            break
        beams = words.shape[1]
        may_end = constraints.may_end(history)
        banned = constraints.banned(history, last=length == options.max_length - 1)
        if inclusion is not None:
            progress = inclusion.progress(history, images)
            may_end &= progress.met.all(axis=-1)
            banned = inclusion.spared(banned, history, progress)
        if length == options.max_length:
            step = stepper.step(parents, words, 1, all_log_probs=True)
            choice = _end(step, totals, may_end)
        elif options.sample:
            step = stepper.step(parents, words, 1, all_log_probs=True)
            choice = _draw(step, totals, may_end, banned, numbers[images, :beams, length], options)
        elif inclusion is not None:
            k = min(
                constraints.vocab_size,
                options.beam_size + 4 + banned.shape[-1] + inclusion.uncommon,
            )
            step = stepper.step(parents, words, k, all_log_probs=True)
            room = options.max_length - length - 1
            choice = _continue_banks(
                step, totals, may_end, banned, options.beam_size, inclusion, progress, room
            )
        else:
            # At most the four special words and the banned ones can rank above a beam's best
            # continuations.
            k = min(constraints.vocab_size, options.beam_size + 4 + banned.shape[-1])
            step = stepper.step(parents, words, k)
            choice = _continue_best(step, totals, may_end, banned, options.beam_size)
        trail.append(_Layer(parents, words, log_probs, step.attention))
        ends = np.where(choice.ends >= least[images, None], choice.ends, -np.inf)
        _note(endings, images, ends, length, divisors[length], finished=True)

        # Which continuations can still get among the N best: the most they can reach is their
        # log-probability so far, divided by the best of the lengths that are still possible.
        continued = np.take_along_axis(totals, choice.beams, axis=1) + choice.log_probs  # (B, W)
        shortest = min(max(length + 1, constraints.min_length), options.max_length)
        to_beat = endings["score"][images, -1:]  # (B, 1); -inf while there are fewer than N
        live = continued / divisors[shortest:].max() > to_beat
        live &= ~greedy[images, None] | (to_beat == -np.inf)
        live &= continued >= least[images, None]

        alive = live.any(axis=1)  # (B,)
        stuck = ~alive & (endings["score"][images, 0] == -np.inf)
        if stuck.any():
            given_up = np.where(stuck[:, None], totals, -np.inf)
            _note(endings, images, given_up, length, divisors[length], finished=False)
        kept, width = np.flatnonzero(alive), live.sum(axis=1).max()
        images = images[kept]
        parents = (kept * beams)[:, None] + choice.beams[kept, :width]
        words = choice.words[kept, :width]
        log_probs = choice.log_probs[kept, :width]
        totals = continued[kept, :width]
        history = np.concatenate(
            [history.reshape(alive.size * beams, length)[parents], words[..., None]], axis=-1
        )

    return _hypotheses(endings, trail)


class _Layer(NamedTuple):
    """The back pointers of a step, and the data to rebuild captions from."""

    parents: IntArray  # (B, K) as the stepper was given them
    words: IntArray  # (B, K) likewise
    log_probs: FloatArray  # (B, K) of these words
    attention: Float32Array | None  # (B, K, L) used to find the words of the next layer


class _Choice(NamedTuple):
    """The continuations of an image's beams: at most W, the live ones first."""

    ends: FloatArray  # (B, K) the log-probability of the beam's caption if it ends here, else -inf
    beams: IntArray  # (B, W) the beam that it continues
    words: IntArray  # (B, W) its next word
    log_probs: FloatArray  # (B, W) of this word; -inf where there is nothing to continue


def _continue_best(
    step: Step, totals: FloatArray, may_end: BoolArray, banned: IntArray, beam_size: int
) -> _Choice:
    log_probs, ends = _candidates(step.words, step.log_probs, totals, may_end, banned)
    candidates = (totals[..., None] + log_probs).reshape(len(totals), -1)  # (B, K * k)
    best = np.argsort(-candidates, axis=1, kind="stable")[:, :beam_size]  # (B, W)
    last = np.full(len(totals), -np.inf)
    if best.shape[1] == beam_size:
        last = candidates[np.arange(len(totals)), best[:, -1]]
    return _chosen(best, step.words, log_probs, np.where(ends >= last[:, None], ends, -np.inf))


def _continue_banks(
    step: Step,
    totals: FloatArray,
    may_end: BoolArray,
    banned: IntArray,
    beam_size: int,
    inclusion: Inclusion,
    progress: Progress,
    room: int,
) -> _Choice:
    assert step.all_log_probs is not None
    words, offered = inclusion.offer(step.words, step.log_probs, step.all_log_probs)
    log_probs, ends = _candidates(words, offered, totals, may_end, banned)
    candidates = totals[..., None] + log_probs
    kept, last = inclusion.keep(candidates, words, progress, beam_size=beam_size, room=room)
    flat = np.where(kept, candidates, -np.inf).reshape(len(totals), -1)
    best = np.argsort(-flat, axis=1, kind="stable")[:, : kept.sum(axis=(1, 2)).max()]  # (B, W)
    log_probs[~kept] = -np.inf
    return _chosen(best, words, log_probs, np.where(ends >= last[:, None], ends, -np.inf))


def _candidates(
    words: IntArray,
    log_probs: Float32Array,
    totals: FloatArray,
    may_end: BoolArray,
    banned: IntArray,
) -> tuple[FloatArray, FloatArray]:
    """Return log-probabilities of next words (B, K, k), -inf if banned, and of ending here."""
    allowed = np.minimum(
        log_probs, 0.0, dtype=np.float64
    )  # rounding may leave them a little above 0
    ends = np.where(
        may_end, totals + np.where(words == END, allowed, -np.inf).max(axis=-1), -np.inf
    )
    allowed[words <= UNKNOWN] = -np.inf
    if banned.shape[-1]:
        allowed[(words[..., None] == banned[:, :, None]).any(axis=-1)] = -np.inf
    return allowed, ends


def _chosen(best: IntArray, words: IntArray, log_probs: FloatArray, ends: FloatArray) -> _Choice:
    """Select the candidates `best` (B, W) from the K * k candidates of each image."""
    return _Choice(
        ends,
        beams=best // words.shape[-1],
        words=np.take_along_axis(words.reshape(len(words), -1), best, axis=1),
        log_probs=np.take_along_axis(log_probs.reshape(len(words), -1), best, axis=1),
    )


def _draw(
    step: Step,
    totals: FloatArray,
    may_end: BoolArray,
    banned: IntArray,
    numbers: FloatArray,
    options: DecodingOptions,
) -> _Choice:
    assert step.all_log_probs is not None
    log_probs = np.minimum(step.all_log_probs, 0.0, dtype=np.float64)  # (B, K, V)
    log_probs[..., NEVER] = -np.inf
    log_probs[..., END] = np.where(may_end, log_probs[..., END], -np.inf)
    np.put_along_axis(log_probs, banned, -np.inf, axis=-1)
    words = draw(
        log_probs,
        numbers,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
    )
    own = np.take_along_axis(log_probs, words[..., None], axis=-1)[..., 0]
    ends = np.where(words == END, totals + own, -np.inf)
    own = np.where(words == END, -np.inf, own)
    live_first = np.argsort(own == -np.inf, axis=1, kind="stable")
    return _Choice(
        ends,
        beams=live_first,
        words=np.take_along_axis(words, live_first, axis=1),
        log_probs=np.take_along_axis(own, live_first, axis=1),
    )


def _end(step: Step, totals: FloatArray, may_end: BoolArray) -> _Choice:
    assert step.all_log_probs is not None
    ends = np.where(may_end, totals + np.minimum(step.all_log_probs[..., END], 0.0), -np.inf)
    nothing = np.zeros((len(totals), 0), np.int64)
    return _Choice(ends, beams=nothing, words=nothing, log_probs=nothing.astype(np.float64))


def _note(
    endings: npt.NDArray[np.void],
    images: IntArray,
    log_probs: FloatArray,
    length: int,
    divisor: float,
    finished: bool,
) -> None:
    """Add the captions that end here, log_probs (B, K) or -inf, to the N best of each image."""
    some = np.flatnonzero(log_probs.max(axis=1) > -np.inf)
    if not some.size:
        return
    new = np.empty((some.size, log_probs.shape[1]), ENDING)
    new["log_prob"] = log_probs[some]
    new["score"] = new["log_prob"] / divisor
    new["length"] = length
    new["row"] = np.arange(log_probs.size).reshape(log_probs.shape)[some]
    new["finished"] = finished
    both = np.concatenate([endings[images[some]], new], axis=1)
    best = np.argsort(-both["score"], axis=1, kind="stable")[:, : endings.shape[1]]
    endings[images[some]] = np.take_along_axis(both, best, axis=1)


def _hypotheses(endings: npt.NDArray[np.void], trail: list[_Layer]) -> list[list[Hypothesis]]:
    """Rebuild the captions by walking back from the endings (B, N), all of them at once."""
    lengths, rows = endings["length"], endings["row"].copy()
    words = np.zeros((*endings.shape, lengths.max(initial=0)), np.int64)  # (B, N, T)
    log_probs = np.zeros(words.shape)
    first = trail[0].attention if trail else None
    attention = (
        None if first is None else np.zeros((*words.shape, first.shape[-1]), np.float32)
    )  # (B, N, T, L)
    for length in range(words.shape[-1], 0, -1):
        here = lengths >= length
        layer, looked = trail[length], trail[length - 1].attention
        words[here, length - 1] = layer.words.ravel()[rows[here]]
        log_probs[here, length - 1] = layer.log_probs.ravel()[rows[here]]
        rows[here] = layer.parents.ravel()[rows[here]]
        if attention is not None and looked is not None:
            attention[here, length - 1] = looked.reshape(-1, looked.shape[-1])[rows[here]]

    def hypothesis(image: int, rank: int) -> Hypothesis:
        score, log_prob, length, _, finished = endings[image, rank].item()
        return Hypothesis(
            words=tuple(words[image, rank, :length].tolist()),
            log_prob=log_prob,
            word_log_probs=tuple(log_probs[image, rank, :length].tolist()),
            score=score,
            attention=None if attention is None else attention[image, rank, :length].copy(),
            finished=finished,
        )

    counts = (endings["log_prob"] > -np.inf).sum(axis=1)
    return [
        [hypothesis(image, rank) for rank in range(count)]
        for image, count in enumerate(counts.tolist())
    ]
