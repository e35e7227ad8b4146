import math

import numpy as np
import pytest
from scipy.special import softmax

from captioner.errors import ConfigError
from captioner.tags import Tag, Tagger, TagTable

TABLE = TagTable(
    ("great grey owl", "robin", "kite", "tabby", "Persian cat"),
    (("owl", "bird"), ("bird",), ("hawk", "bird"), ("cat",), ("cat",)),
)


def logits_of(*probabilities: float) -> np.ndarray:
    return np.log(np.array([probabilities]))


def said(tags: tuple[Tag, ...]) -> dict[str, float]:
    return {tag.noun: round(tag.probability, 6) for tag in tags}


def test_probabilities_are_summed_over_the_classes_of_a_noun() -> None:
    found = Tagger(TABLE).probabilities(logits_of(0.1, 0.2, 0.3, 0.25, 0.15))
    assert TABLE.nouns == ("owl", "bird", "hawk", "cat")
    np.testing.assert_allclose(found, [[0.1, 0.6, 0.3, 0.4]])


def test_scores_are_divided_by_the_temperature() -> None:
    # e^(ln 4 / 2) : e^(ln 9 / 2) = 2 : 3
    table = TagTable.of_classes(["cat", "dog"])
    found = Tagger(table, temperature=2).probabilities(
        np.array([[math.log(4), math.log(9)]], np.float32)
    )
    np.testing.assert_allclose(found, [[0.4, 0.6]], rtol=1e-6)


def test_probabilities_agree_with_scipy_and_bear_large_scores() -> None:
    table = TagTable.imagenet()
    logits = np.random.default_rng(0).normal(0, 300, (3, 1000)).astype(np.float32)
    expected = softmax(logits.astype(np.float64) / 1.5, axis=1)
    found = Tagger(table, 1.5).probabilities(logits)
    for noun in ("dog", "bird", "pizza", "vehicle"):
        classes = [index for index, words in enumerate(table.words) if noun in words]
        np.testing.assert_allclose(
            found[:, table.nouns.index(noun)], expected[:, classes].sum(1), atol=1e-12
        )


def test_the_best_noun_leaves_wider_words_aside() -> None:
    nouns, probabilities = Tagger(TABLE).best(logits_of(0.3, 0.1, 0.25, 0.2, 0.15))
    assert [TABLE.nouns[noun] for noun in nouns] == ["cat"]
    np.testing.assert_allclose(probabilities, [0.35])


def test_tags_are_the_nouns_above_the_threshold_the_likeliest_first() -> None:
    tagger, logits = Tagger(TABLE), logits_of(0.02, 0.38, 0.01, 0.34, 0.25)
    assert list(said(tagger.tags(logits)[0]).items()) == [("cat", 0.59), ("bird", 0.41)]
    assert said(tagger.tags(logits, threshold=0.5)[0]) == {"cat": 0.59}
    assert said(tagger.tags(logits, limit=1)[0]) == {"cat": 0.59}
    assert tagger.tags(logits, threshold=0.9) == [()]


def test_a_wider_word_is_left_out_where_one_below_it_says_as_much() -> None:
    assert said(Tagger(TABLE).tags(logits_of(0.8, 0.05, 0.05, 0.05, 0.05), threshold=0.1)[0]) == {
        "owl": 0.8,
        "cat": 0.1,
    }
    assert said(Tagger(TABLE).tags(logits_of(0.2, 0.2, 0.2, 0.2, 0.2), threshold=0.1)[0]) == {
        "bird": 0.6,
        "cat": 0.4,
        "owl": 0.2,
        "hawk": 0.2,
    }


def test_what_is_below_the_threshold_takes_no_wider_word_away() -> None:
    assert said(Tagger(TABLE).tags(logits_of(0.3, 0.01, 0.29, 0.2, 0.2), threshold=0.5)[0]) == {
        "bird": 0.6
    }


def test_images_are_tagged_by_themselves() -> None:
    logits = np.concatenate(
        [logits_of(0.9, 0.025, 0.025, 0.025, 0.025), logits_of(0.01, 0.01, 0.01, 0.96, 0.01)]
    )
    assert [tags[0].noun for tags in Tagger(TABLE).tags(logits)] == ["owl", "cat"]
    assert Tagger(TABLE).tags(np.zeros((0, 5), np.float32)) == []


def test_impossible_nouns_are_no_tags_even_without_a_threshold() -> None:
    with np.errstate(divide="ignore"):
        assert said(Tagger(TABLE).tags(logits_of(0, 0, 0, 1, 0), threshold=0)[0]) == {"cat": 1}


def test_options_out_of_range_are_refused() -> None:
    tagger, logits = Tagger(TABLE), np.zeros((1, 5))
    with pytest.raises(ConfigError, match=r"threshold of tags is 1\.5"):
        tagger.tags(logits, threshold=1.5)
    with pytest.raises(ConfigError, match="limit of tags is 0"):
        tagger.tags(logits, limit=0)
    for wrong in ("x", None, float("nan")):
        with pytest.raises(ConfigError, match="threshold of tags is"):
            tagger.tags(logits, threshold=wrong)  # type: ignore[arg-type]
    for number in (2.5, "x", True):
        with pytest.raises(ConfigError, match="expected a whole number"):
            tagger.tags(logits, limit=number)  # type: ignore[arg-type]
    assert len(tagger.tags(logits, threshold=np.float32(0), limit=np.int64(1))[0]) == 1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        Tagger(TABLE, 0)
    with pytest.raises(ValueError, match=r"expected \(images, 5\)"):
        Tagger(TABLE).probabilities(np.zeros((2, 4)))
