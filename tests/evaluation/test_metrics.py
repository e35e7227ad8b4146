"""BLEU, ROUGE-L and CIDEr-D against the official COCO scorer (pycocoevalcap, without Java)."""

import contextlib
import io
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import closest_ref_length, corpus_bleu, modified_precision
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioner.errors import DataError
from captioner.evaluation.bleu import bleu, bleu_counts, bleu_from_counts
from captioner.evaluation.cider import CiderD, cider_d
from captioner.evaluation.rouge import rouge_l

References = dict[int, list[list[str]]]
Candidates = dict[int, list[str]]

# Few words, so that n-grams repeat and match; some with signs or of other scripts.
WORDS = ["a", "dog", "the", "runs", "'s", "n't", "t-shirt", "café", "猫", "."]
captions = st.lists(st.sampled_from(WORDS), max_size=9)
any_captions = st.lists(
    st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=3).filter(
        lambda w: len(w.split()) == 1
    ),
    max_size=6,
)


def corpora(
    caption: st.SearchStrategy[list[str]],
) -> st.SearchStrategy[tuple[References, Candidates]]:
    """One to six images with one to five references, and candidates that may equal a reference."""
    image = st.lists(caption, min_size=1, max_size=5).flatmap(
        lambda texts: st.tuples(st.just(texts), st.one_of(caption, st.sampled_from(texts)))
    )
    return st.lists(image, min_size=1, max_size=6).map(
        lambda images: (
            {10 - i: texts for i, (texts, _) in enumerate(images)},
            {10 - i: candidate for i, (_, candidate) in enumerate(images)},
        )
    )


def official_bleu(
    references: References, candidates: Candidates
) -> tuple[list[float], list[list[float]]]:
    joined = joined_for_official(references, candidates)
    with contextlib.redirect_stdout(io.StringIO()):
        corpus, images = Bleu(4).compute_score(*joined, verbose=0)
    return list(corpus), images


def official_cider(references: References, candidates: Candidates) -> tuple[float, Sequence[float]]:
    corpus, images = Cider().compute_score(*joined_for_official(references, candidates))
    return float(corpus), images


def joined_for_official(
    references: References, candidates: Candidates
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    return (
        {
            image_id: [" ".join(tokens) for tokens in texts]
            for image_id, texts in references.items()
        },
        {image_id: [" ".join(tokens)] for image_id, tokens in candidates.items()},
    )


def check_against_official(references: References, candidates: Candidates) -> None:
    official_corpus, official_images = official_bleu(references, candidates)
    assert bleu(references, candidates) == pytest.approx(official_corpus, abs=1e-9, rel=1e-9)
    images = bleu_from_counts(bleu_counts(references, candidates))
    np.testing.assert_allclose(images.T, official_images, rtol=1e-9, atol=1e-9)

    corpus, images = rouge_l(references, candidates)
    official, each = Rouge().compute_score(*joined_for_official(references, candidates))
    assert corpus == pytest.approx(official, abs=1e-9)
    np.testing.assert_allclose(images, each, rtol=0, atol=1e-9)

    corpus, images = cider_d(references, candidates)
    if not any(tokens for texts in references.values() for tokens in texts):
        assert corpus == 0  # the official scorer stumbles over this one
        return
    official, each = official_cider(references, candidates)
    assert corpus == pytest.approx(official, abs=1e-9)
    np.testing.assert_allclose(images, each, rtol=0, atol=1e-9)


@given(corpora(captions))
@settings(max_examples=60, deadline=None)
def test_equal_to_the_official_scorer_on_repetitive_captions(
    corpus: tuple[References, Candidates],
) -> None:
    check_against_official(*corpus)


@given(corpora(any_captions))
@settings(max_examples=40, deadline=None)
def test_equal_to_the_official_scorer_on_words_of_any_script(
    corpus: tuple[References, Candidates],
) -> None:
    check_against_official(*corpus)


@pytest.mark.parametrize(
    ("references", "candidates"),
    [
        pytest.param(
            {1: [["a", "dog"]], 2: [["a", "cat"]]}, {1: [], 2: []}, id="all candidates empty"
        ),
        pytest.param({1: [[]], 2: [[], ["a"]]}, {1: ["a"], 2: []}, id="empty references"),
        pytest.param({1: [[]]}, {1: []}, id="nothing at all"),
        pytest.param(
            {1: [["a", "dog", "runs", "far"]]},
            {1: ["a", "dog", "runs", "far"]},
            id="one image, one reference",
        ),
        pytest.param(
            {1: [["a", "b", "c"]], 2: [["d"]]}, {1: ["a", "b", "c"], 2: ["d"]}, id="zero 4-grams"
        ),
        pytest.param(
            {1: [["a", "b"]], 2: [["c"]]}, {1: ["b", "a"], 2: ["c"]}, id="no bigram matches"
        ),
        pytest.param(
            {1: [["a"] * 3], 2: [["b"]]}, {1: ["a"] * 30, 2: ["b"] * 2}, id="repeated words"
        ),
        pytest.param(
            {1: [["a"] * 4, ["a"] * 6], 2: [["b"]]},
            {1: ["a"] * 5, 2: ["b"]},
            id="a tie goes to the shorter",
        ),
    ],
)
def test_equal_to_the_official_scorer_at_the_edges(
    references: References, candidates: Candidates
) -> None:
    check_against_official(references, candidates)


def test_bleu_equals_nltk_where_no_count_is_zero() -> None:
    references = {1: [list("abcdefgh"), list("abc")], 2: [list("bcdabc")]}
    candidates = {1: list("abcdefab"), 2: list("bcdacb")}
    weights = [tuple([1 / n] * n) for n in (1, 2, 3, 4)]
    expected = corpus_bleu(list(references.values()), list(candidates.values()), weights=weights)
    assert bleu(references, candidates) == pytest.approx(expected, abs=1e-9)


@given(corpora(captions))
@settings(max_examples=40, deadline=None)
def test_bleu_counts_equal_nltks(corpus: tuple[References, Candidates]) -> None:
    references, candidates = corpus
    for (image_id, texts), counts in zip(
        references.items(), bleu_counts(*corpus).tolist(), strict=True
    ):
        candidate = candidates[image_id]
        precisions = [modified_precision(texts, candidate, n) for n in (1, 2, 3, 4)]
        assert counts[:4] == [precision.numerator for precision in precisions]
        assert [max(1, count) for count in counts[4:8]] == [
            precision.denominator for precision in precisions
        ]
        assert counts[8:] == [len(candidate), closest_ref_length(texts, len(candidate))]


def test_bleu_of_many_corpora_at_once_is_that_of_each() -> None:
    references = {1: [list("abcdefgh"), list("abc")], 2: [list("bcdabc")], 3: [list("aa")]}
    counts = bleu_counts(references, {1: list("abcdefab"), 2: list("bcdacb"), 3: []})
    resamples = np.array([[counts[0] + counts[1], counts[2]], [counts[1] * 3, counts.sum(axis=0)]])
    scores = bleu_from_counts(resamples)
    assert scores.shape == (2, 2, 4)
    for row, values in zip(resamples.reshape(4, 10), scores.reshape(4, 4), strict=True):
        np.testing.assert_array_equal(values, bleu_from_counts(row))


def test_rouge_l_by_hand() -> None:
    # "a dog runs" shares "a dog" with the first (precision 2/3, recall 2/2), and "runs" alone with
    # the second (1/3, 1/4); both maxima are the first's.
    corpus, images = rouge_l(
        {1: [["a", "dog"], ["runs", "x", "y", "z"]]}, {1: ["a", "dog", "runs"]}
    )
    assert images.tolist() == pytest.approx([(1 + 1.44) * (2 / 3) / (1 + 1.44 * 2 / 3)])
    assert corpus == images[0]


def test_rouge_l_takes_precision_and_recall_of_different_references() -> None:
    # Precision 1 from the long reference, recall 1 from the short one.
    assert rouge_l({1: [["a", "b", "c", "d"], ["b"]]}, {1: ["a", "b"]})[0] == pytest.approx(1)


def test_cider_d_by_hand() -> None:
    # Two images, every n-gram in one image's references only: idf log 2 cancels in the cosine. One
    # of two words
    # matches: cosine 1/2 for words, 0 for bigrams, no longer n-grams; lengths are equal.
    corpus, images = cider_d(
        {"x": [["a", "b"]], "y": [["c", "d"]]}, {"x": ["a", "e"], "y": ["c", "d"]}
    )
    assert images.tolist() == pytest.approx([10 * 0.5 / 4, 10 * 2 / 4])
    assert corpus == pytest.approx(images.mean())


def test_cider_d_length_penalty_by_hand() -> None:
    # Both have one kind of word, so the vectors are (2w) and (w) and the candidate's is cut to (w):
    # w * w / (2w * w). The candidate is one bigram longer.
    _, images = cider_d({1: [["a"]], 2: [["b"]]}, {1: ["a", "a"], 2: ["b"]})
    assert images[0] == pytest.approx(10 / 4 * (1 * 1) / (2 * 1) * math.exp(-1 / 72))


def test_cider_d_of_one_image_is_zero() -> None:
    assert cider_d({1: [["a", "dog"]]}, {1: ["a", "dog"]})[0] == 0


def test_cider_d_built_once_scores_many_times() -> None:
    references = {1: [["a", "dog", "runs"]], 2: [["a", "cat"]]}
    built = CiderD(references)
    for candidates in ({1: ["a", "dog"], 2: ["a", "cat"]}, {2: ["a", "dog"], 1: ["dog", "runs"]}):
        corpus, images = built.score(candidates)
        expected_corpus, expected_images = cider_d(references, candidates)
        assert corpus == expected_corpus
        assert images.tolist() == expected_images.tolist()


@given(corpora(captions), st.data())
@settings(max_examples=30, deadline=None)
def test_cider_d_of_any_captions_of_an_image_as_in_a_corpus(
    corpus: tuple[References, Candidates], data: st.DataObject
) -> None:
    references, _ = corpus
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(list(references)), captions), max_size=8))
    scores = CiderD(references).score_each(
        [image_id for image_id, _ in pairs], [text for _, text in pairs]
    )
    assert scores.shape == (len(pairs),)
    for (image_id, text), score in zip(pairs, scores, strict=True):
        everyone = {other: text for other in references}
        _, images = cider_d(references, everyone)
        assert score == pytest.approx(images[list(references).index(image_id)], abs=1e-12)


def test_a_reward_does_not_depend_on_how_many_are_asked_for_at_once() -> None:
    words = list("abcdefgh")
    rng = np.random.default_rng(0)
    references = {i: [list(rng.choice(words, 6)) for _ in range(1 + i % 3)] for i in range(7)}
    image_ids = rng.integers(0, 7, 1100).tolist()
    texts = [list(rng.choice([*words, "new", "newer"], rng.integers(0, 9))) for _ in image_ids]
    built = CiderD(references)
    alone = [
        built.score_each([image_id], [text])[0]
        for image_id, text in zip(image_ids, texts, strict=True)
    ]
    np.testing.assert_allclose(built.score_each(image_ids, texts), alone, rtol=0, atol=1e-12)


def test_captions_of_images_without_references_have_no_reward() -> None:
    built = CiderD({1: [["a", "dog"]], 2: [["b"]]})
    with pytest.raises(DataError, match="image 3 has a caption but no references"):
        built.score_each([1, 3], [["a"], ["a"]])
    with pytest.raises(DataError, match="got 1 captions and 2 image ids"):
        built.score_each([1, 2], [["a"]])


def test_scores_of_images_come_in_the_order_of_the_references() -> None:
    references = {"late": [["a", "b"]], "early": [["c", "d"]]}
    _, images = cider_d(references, {"early": ["x"], "late": ["a", "b"]})
    assert images[0] > 0
    assert images[1] == 0


@pytest.mark.parametrize("metric", [bleu, rouge_l, cider_d])
@pytest.mark.parametrize(
    ("references", "candidates", "said"),
    [
        ({}, {}, "no images"),
        ({1: []}, {1: ["a"]}, "image 1 has no reference captions"),
        ({1: [["a"]]}, {1: ["a"], 2: ["b"]}, "image 2 has a caption but no references"),
        (
            {1: [["a"]], 2: [["b"]]},
            {1: ["a"]},
            "1 of 2 images have no caption, for example image 2",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused(metric, references, candidates, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=said):
        metric(references, candidates)
