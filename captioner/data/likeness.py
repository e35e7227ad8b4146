"""Weigh images by how typical their captions are of another text.

Photos of one data set show other things than those to caption: here kitchens are too common, there
clocks too rare. Sentences about the latter are often at hand where photos are not. Then photos are
drawn more often if the nouns of their captions are more frequent in these sentences, as texts are
selected to train a language model for a domain (Moore and Lewis 2010).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captioner.annotations.entries import reading
from captioner.decoding.forms import base
from captioner.decoding.options import ENGLISH_ENDINGS
from captioner.errors import DataError
from captioner.tokenizer import tokenize

Tokens = Sequence[str]

# The nouns of a caption are not independent, so the sum of their log-ratios is tempered.
_TEMPER = 0.45
_LIMITS = 0.4, 3.5
_SMOOTHING = 10  # sentences that are added to those with a noun, as rare nouns prove little
_base = cache(base)


def read_sentences(path: Path) -> list[list[str]]:
    """Read the tokens of a text with a sentence per line.

    Raises:
        DataError: The file cannot be read, or has no words.
    """
    with reading(path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    sentences = [tokens for tokens in map(tokenize, lines) if tokens]
    if not sentences:
        raise DataError(f"{path}: no words; expected a text with a sentence per line.")
    return sentences


def likeness(captions: Sequence[Sequence[Tokens]], text: Sequence[Tokens]) -> NDArray[np.float64]:
    """Compute how often to draw each image, so that its nouns become as frequent as in a text.

    The weight of an image is exp(0.45 s), where s is the mean over its captions of the sum over
    their distinct nouns of log(frequency in the text / frequency in all captions), limited to
    0.4 and 3.5 times the mean. Forms of a word, such as its plural, are one noun. A frequency is
    the share of sentences with the noun.

    Args:
        captions: The tokens of each image's captions, one or more.
        text: The tokens of the text's sentences.

    Returns:
        (N,) the weights of the images; their mean is 1.
    """
    nouns = _with_forms(_nouns(text), text, chain.from_iterable(captions))
    images = [[_bases(tokens, nouns) for tokens in image] for image in captions]
    ours = [bases for image in images for bases in image]
    theirs = [_bases(tokens, nouns) for tokens in text]
    added = _SMOOTHING / min(len(ours), len(theirs))
    here, there = (
        {
            noun: count / len(sentences)
            for noun, count in Counter(chain.from_iterable(sentences)).items()
        }
        for sentences in (ours, theirs)
    )
    ratios = {
        noun: log((there.get(noun, 0) + added) / (share + added)) for noun, share in here.items()
    }
    sums = [np.mean([sum(map(ratios.__getitem__, bases)) for bases in image]) for image in images]
    return _limited(np.exp(_TEMPER * np.array(sums)))


def _nouns(text: Sequence[Tokens]) -> frozenset[str]:
    """Find nouns: words that mostly end a phrase, so that a function word or nothing follows."""
    occurrences = Counter(token for tokens in text for token in tokens)
    at_ends = Counter(
        token
        for tokens in text
        for token, following in zip(tokens, [*tokens[1:], None], strict=True)
        if following is None or following in ENGLISH_ENDINGS or following.endswith("ing")
    )
    return frozenset(
        token
        for token, count in at_ends.items()
        if 2 * count > occurrences[token]
        and token not in ENGLISH_ENDINGS
        and not token.endswith("ing")
    )


def _with_forms(
    nouns: frozenset[str], text: Iterable[Tokens], captions: Iterable[Tokens]
) -> frozenset[str]:
    """Add the forms of nouns that only captions have, such as a singular; no forms of verbs."""
    bases = frozenset(map(_base, nouns))
    added = set(chain.from_iterable(captions)) - set(chain.from_iterable(text))
    return nouns | {
        token
        for token in added
        if _base(token) in bases and (token in bases or not token.endswith(("ed", "ing")))
    }


def _bases(tokens: Tokens, nouns: frozenset[str]) -> frozenset[str]:
    return frozenset(_base(token) for token in tokens if token in nouns)


def _limited(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    for _ in range(50):  # until limits and mean both hold
        weights = weights / np.clip(weights, *_LIMITS).mean()
    limited: NDArray[np.float64] = np.clip(weights, *_LIMITS)
    limited /= limited.mean()
    return limited
