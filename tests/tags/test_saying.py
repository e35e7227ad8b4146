import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.decoding import Constraints, DecodingOptions
from captioner.decoding.search import search
from captioner.tags import TagConfig
from captioner.tags.saying import LEAST, log_odds, say_tags
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.decoding.table import Table, TableStepper, all_captions, log_prob

VOCABULARY = Vocabulary([*SPECIAL_WORDS, "a", "cat", "dogs"])
TAGS = TagConfig(("cat", "dog", "zebra"))
CAT, DOG, ZEBRA = range(3)
FORMS = {CAT: {5}, DOG: {6}, ZEBRA: set()}
ALL = 100  # beams: more than there are captions
OPTIONS = DecodingOptions(beam_size=ALL, max_length=3, min_length=1, no_repeat_ngram=0)


def logits(noun: int, probability: float) -> np.ndarray:
    rest = np.log((1 - probability) / 2)
    return np.where(np.arange(3) == noun, np.log(probability), rest)


def said(
    tables: list[Table], classes: np.ndarray, options: DecodingOptions
) -> list[list[tuple[int, ...]]]:
    found = search(TableStepper(tables), options, Constraints.from_options(options, VOCABULARY))
    again = say_tags(
        found,
        TAGS.tagger.probabilities(classes),
        TAGS.tagger,
        lambda images: TableStepper([tables[image] for image in images]),
        options,
        VOCABULARY,
    )
    return [[hypothesis.words for hypothesis in hypotheses] for hypotheses in again]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6), st.sampled_from([CAT, DOG, ZEBRA]), st.floats(0.34, 0.999)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_tag_is_said_where_its_odds_outweigh_what_it_costs(
    images: list[tuple[int, int, float]],
) -> None:
    tables = [Table(seed, len(VOCABULARY), end_bias=1.0) for seed, _, _ in images]
    classes = np.stack([logits(noun, p) for _, noun, p in images])
    for words, table, (_, noun, p) in zip(
        said(tables, classes, OPTIONS), tables, images, strict=True
    ):
        captions = sorted(
            all_captions(table, OPTIONS, frozenset()), key=lambda caption: -log_prob(table, caption)
        )
        naming = [caption for caption in captions if FORMS[noun] & {*caption}]
        expected = captions[0]
        if p >= LEAST and naming:
            odds = p / (1 - p)
            ratio = math.exp(log_prob(table, captions[0]) - log_prob(table, naming[0]))
            expected = naming[0] if ratio <= odds else expected
        assert [(*each, 2) for each in words] == [expected]


def test_the_caption_that_was_replaced_comes_second() -> None:
    options = replace(OPTIONS, alternatives=3)
    table = Table(1, len(VOCABULARY), end_bias=1.0)
    ((first, second, *_),) = said([table], logits(ZEBRA, 0.9)[None], options)
    noun = CAT if 5 not in first else DOG
    ((one, *others),) = said([table], logits(noun, 1 - 1e-9)[None], options)
    assert FORMS[noun] & {*one} and others == [first, second]


@pytest.mark.parametrize("seed", range(10))
def test_no_caption_comes_twice(seed: int) -> None:
    """The best caption with the tag is among the best captions already."""
    options = replace(OPTIONS, alternatives=3)
    table = Table(seed, len(VOCABULARY), end_bias=1.0)
    captions = [
        caption[:-1]
        for caption in sorted(
            all_captions(table, OPTIONS, frozenset()), key=lambda caption: -log_prob(table, caption)
        )
    ]
    noun = CAT if 5 not in captions[0] else DOG
    named = next(caption for caption in captions if FORMS[noun] & {*caption})
    expected = [named, *(caption for caption in captions if caption != named)][:3]
    assert said([table], logits(noun, 1 - 1e-9)[None], options) == [expected]


def test_a_certain_tag_has_infinite_odds() -> None:
    assert log_odds(1.0) == math.inf and log_odds(0.5) == 0
    assert log_odds(0.8) == pytest.approx(math.log(4))
