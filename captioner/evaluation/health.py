"""Statistics that scores don't show: how diverse captions are, and obvious defects."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from captioner.decoding.options import ENGLISH_ENDINGS

Words = tuple[str, ...]

# How systems write unknown words.
UNKNOWN_MARKS = frozenset(["<unk>", "unk", "<unknown>"])

# The statistics of `check_health` and their meaning. All but the counts and the mean length are
# shares.
FIGURES = {
    "mean length": "words of a caption, on average",
    "vocabulary": "different words in all captions",
    "distinct-1": "different words / all words (Li et al. 2016)",
    "distinct-2": "different pairs of neighbouring words / all such pairs",
    "unique captions": "different captions / all captions: 100 % if no two images share one",
    "novel captions": "captions that are not in the training captions",
    "most frequent caption": "how often the most frequent caption occurs",
    "bad endings": "captions that end with a word like 'a' or 'of'",
    "repeated trigrams": "captions in which three words in a row are repeated",
    "repeated words": "captions in which a word occurs again, other than 'a', 'of' and the like",
    "empty captions": "captions without words",
    "unknown words": "words written as <unk>",
}


def check_health(
    captions: Sequence[Sequence[str]],
    training: Collection[Words] | None = None,
    endings: Collection[str] = ENGLISH_ENDINGS,
) -> dict[str, float | int]:
    """Compute statistics of captions, without references.

    Args:
        captions: Tokenised captions, at least one.
        training: The tokenised captions that the system was trained on, if known.
        endings: Function words, which a caption should not end with, but may repeat.

    Returns:
        The statistics of `FIGURES` by name, in that order: counts as int, others as float. "novel
        captions" is included only if the training captions are known.
    """
    spoken = [tuple(caption) for caption in captions]
    words = Counter(word for caption in spoken for word in caption)
    pairs = Counter(pair for caption in spoken for pair in _ngrams(caption, 2))
    said = Counter(spoken)
    figures: dict[str, float | int] = {
        "mean length": words.total() / len(spoken),
        "vocabulary": len(words),
        "distinct-1": len(words) / max(1, words.total()),
        "distinct-2": len(pairs) / max(1, pairs.total()),
        "unique captions": len(said) / len(spoken),
    }
    if training is not None:
        known = training if isinstance(training, set | frozenset) else set(training)
        figures["novel captions"] = _share(caption not in known for caption in spoken)
    return figures | {
        "most frequent caption": max(said.values()),
        "bad endings": _share(bool(caption) and caption[-1] in endings for caption in spoken),
        "repeated trigrams": _share(
            max(Counter(_ngrams(caption, 3)).values(), default=0) > 1 for caption in spoken
        ),
        "repeated words": _share(
            any(count > 1 and word not in endings for word, count in Counter(caption).items())
            for caption in spoken
        ),
        "empty captions": said[()],
        "unknown words": sum(words[mark] for mark in UNKNOWN_MARKS),
    }


def figure_text(name: str, value: float | int) -> str:
    """Format a statistic: counts as integers, shares in percent, distinct-n as fractions."""
    if isinstance(value, int):
        return f"{value:,}"
    if name == "mean length":
        return f"{value:.1f}"
    return f"{value:.3f}" if name.startswith("distinct") else f"{100 * value:.1f} %"


def most_frequent(captions: Sequence[str], tokens: Sequence[Sequence[str]]) -> str:
    """Return the most frequent caption; captions with the same tokens count as the same."""
    counts = Counter(map(tuple, tokens))
    most = max(counts, key=lambda words: counts[words])
    return next(
        caption for caption, words in zip(captions, tokens, strict=True) if tuple(words) == most
    )


def _ngrams(words: Words, n: int) -> Iterator[Words]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _share(found: Iterator[bool]) -> float:
    flags = list(found)
    return sum(flags) / len(flags)
