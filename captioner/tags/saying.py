"""Let captions say what the classifier is sure of: "a brown insect" becomes "a brown butterfly".

A decoder that saw a thing only a few times in training prefers a more frequent word, where the
encoder's classifier, trained on a million photos, is sure. So the two are combined as independent
experts: the tag of probability p has the odds p / (1 - p), and the caption becomes the best of
those that name it and that the decoder finds less probable than the best caption of all by no more
than that factor. Copying from tags (Yao et al. 2017, "Incorporating Copying Mechanism in Image
Captioning for Learning Novel Objects"; Li et al. 2019, "Pointing Novel Objects in Image
Captioning") learns such a gate; this one has nothing to learn, because the tags are calibrated.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from captioner.decoding import Constraints, DecodingOptions, Hypothesis, Stepper
from captioner.decoding.arrays import IntArray
from captioner.decoding.inclusion import can_include
from captioner.decoding.search import search
from captioner.errors import ConfigError
from captioner.tags.matching import noun_matcher
from captioner.tags.tagger import Tag, Tagger
from captioner.vocabulary import Vocabulary

LEAST = 0.5
"""The minimum probability of a tag: below it, odds are against it."""


def say_tags(
    found: Sequence[list[Hypothesis]],
    nouns: NDArray[np.float64],
    tagger: Tagger,
    again: Callable[[IntArray], Stepper],
    options: DecodingOptions,
    vocabulary: Vocabulary,
    include: Sequence[tuple[str, ...]] | None = None,
) -> list[list[Hypothesis]]:
    """Replace captions that lack a likely tag by the best ones with it, where the odds are for it.

    Args:
        found: The captions of each of B images, the best first.
        nouns: (B, N) the probabilities of the tagger's nouns.
        tagger: Says which nouns these are.
        again: Returns a stepper over the images of some indices, before its first step.
        options: How the captions were searched for.
        vocabulary: The model's words.
        include: What the caption of each image must contain; None is `options.include` for all.

    Returns:
        The captions of each image, all different. One that was replaced is now the second of
        `options.alternatives`.
    """
    asked = [options.include] * len(found) if include is None else include
    best = [vocabulary.text(hypotheses[0].words) for hypotheses in found]
    wanted = {
        image: (tag, words)
        for image, tag in _unsaid(best, nouns, tagger).items()
        if _can_include(words := (*asked[image], tag.noun), options, vocabulary)
    }
    result = [*found]
    if not wanted:
        return result
    constraints = Constraints.from_options(
        options, vocabulary, [words for _, words in wanted.values()]
    )
    least = np.array(
        [found[image][0].log_prob - log_odds(tag.probability) for image, (tag, _) in wanted.items()]
    )
    one = replace(options, alternatives=1)
    others = search(again(np.array([*wanted])), one, constraints, least=least)
    for image, (other, *_) in zip(wanted, others, strict=True):
        if other.finished:
            # the beams may have found it already, as a less probable one
            rest = [each for each in found[image] if each.words != other.words]
            result[image] = [other, *rest][: options.alternatives]
    return result


def log_odds(probability: float) -> float:
    """Return log(p / (1 - p)), infinite for certainty."""
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def _unsaid(captions: Sequence[str], nouns: NDArray[np.float64], tagger: Tagger) -> dict[int, Tag]:
    """Find the images whose most likely tag the caption names in no form, and that tag."""
    matcher = noun_matcher(tagger.table)
    likely = tagger.select(nouns, threshold=LEAST, limit=1)
    return {
        image: tag
        for image, (caption, best) in enumerate(zip(captions, likely, strict=True))
        for tag in best
        if not matcher.names(caption, tagger.table.nouns.index(tag.noun))
    }


def _can_include(words: tuple[str, ...], options: DecodingOptions, vocabulary: Vocabulary) -> bool:
    """Say whether the vocabulary has the words, and a caption has room for them."""
    if not all(can_include(word, vocabulary) for word in words):
        return False
    try:
        Constraints.from_options(options, vocabulary, [words])
    except ConfigError:
        return False
    return True
