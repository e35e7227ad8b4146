"""What captions teach: how many of their words are known, and which captions teach nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from captioner.annotations.records import Split
from captioner.data.datamodule import CaptionData
from captioner.errors import DataError
from captioner.vocabulary import Vocabulary


@dataclass(frozen=True)
class Teaching:
    """Counts over the captions of a split.

    Attributes:
        captions: How many there are.
        empty: How many of them have no word: only emoji or punctuation.
        unknown: How many have words, but none that the vocabulary has.
        cut: How many are longer than the longest that is trained on.
        words: How many words there are in all captions.
        unknown_words: How many of these the vocabulary lacks.
    """

    captions: int
    empty: int
    unknown: int
    cut: int
    words: int
    unknown_words: int


def count_captions(
    captions: Iterable[Sequence[str]], vocabulary: Vocabulary, max_length: int
) -> Teaching:
    """Count.

    Args:
        captions: Tokenized captions.
        vocabulary: The words that are known.
        max_length: The longest caption that is trained on, in words.
    """
    total = empty = unknown = cut = words = unknown_words = 0
    for tokens in captions:
        known = sum(token in vocabulary for token in tokens)
        total += 1
        words += len(tokens)
        unknown_words += len(tokens) - known
        cut += len(tokens) > max_length
        if not any(character.isalnum() for token in tokens for character in token):
            empty += 1
        elif not known:
            unknown += 1
    return Teaching(total, empty, unknown, cut, words, unknown_words)


def count_split(data: CaptionData, split: Split) -> Teaching:
    """Count the captions of a split."""
    captions = (tokens for image in data.tokens[split] for tokens in image)
    return count_captions(captions, data.vocabulary, data.max_length)


def check_teaching(data: CaptionData) -> None:
    """Make sure that most captions teach something, and that validation has something to score.

    Raises:
        DataError: They don't, or it hasn't.
    """
    train, val = count_split(data, "train"), count_split(data, "val")
    if 2 * (train.empty + train.unknown) > train.captions:
        raise DataError(
            f"Most training captions teach nothing: of {train.captions:,}, {train.empty:,} have no"
            f" word (emoji and punctuation are none) and {train.unknown:,} only words that occur"
            f" fewer than {data.min_count} times. Mend the captions, or lower data.min_count."
        )
    if 2 * val.empty > val.captions:
        raise DataError(
            f"Most validation captions have no word (emoji and punctuation are none): {val.empty:,}"
            f" of {val.captions:,}, so there is nothing to score. Mend the captions."
        )
