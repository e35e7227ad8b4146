"""How useful captions are for training: known words, and captions without any."""

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
        captions: Number of captions.
        empty: Number of captions without a word: only emoji or punctuation.
        unknown: Number of captions with words, but none in the vocabulary.
        cut: Number of captions longer than the maximum length.
        words: Number of words in all captions.
        unknown_words: Number of words that are not in the vocabulary.
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
    """Count captions and their words.

    Args:
        captions: Tokenized captions.
        vocabulary: The vocabulary.
        max_length: Maximum length of training captions, in words.
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
    """Check that most training captions have known words, and most validation captions words.

    Raises:
        DataError: More than half of the captions of a split are unusable.
    """
    train, val = count_split(data, "train"), count_split(data, "val")
    if 2 * (train.empty + train.unknown) > train.captions:
        raise DataError(
            f"Most training captions are unusable: of {train.captions:,}, {train.empty:,} have no"
            f" words (emoji and punctuation don't count) and {train.unknown:,} only words that"
            f" occur fewer than {data.min_count} times. Fix the captions, or lower data.min_count."
        )
    if 2 * val.empty > val.captions:
        raise DataError(
            "Most validation captions have no words (emoji and punctuation don't count):"
            f" {val.empty:,} of {val.captions:,}, so they cannot be scored. Fix the captions."
        )
