"""The bootstrap, compared with all samples of a few images, scipy, and data with known truth."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from captioner.evaluation.corpus import Corpus
from captioner.evaluation.metric import Measured
from captioner.evaluation.scoring import Scored, score_corpus
from captioner.evaluation.statistics import bootstrap, compare, interval, p_value, resample

WORDS = "a dog cat runs on the grass and two men sit in red".split()  # noqa: SIM905


def corpus(images: int, seed: int) -> tuple[dict[int, list[str]], dict[int, str]]:
    """Random references and captions that share some of their words in order."""
    random = np.random.default_rng(seed)
    references, captions = {}, {}
    for image in range(images):
        sentence = list(random.choice(WORDS, random.integers(6, 12)))
        references[image] = [
            " ".join(sentence),
            " ".join(random.choice(WORDS, random.integers(5, 12))),
        ]
        captions[image] = " ".join(word if random.random() < 0.8 else "x" for word in sentence)
    return references, captions


def means(values: NDArray[np.float64], name: str = "CIDEr-D") -> Scored:
    """A system of which only one mean score is known."""
    return Scored({"metric": Measured.mean(name, values)})


def test_draws_have_as_many_images_as_there_are() -> None:
    blocks = list(resample(7, 1000, seed=3))
    weights = np.concatenate(blocks)  # (R, N)
    assert weights.shape == (1000, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)  # 5 standard errors
    assert weights.var() == pytest.approx(6 / 7, rel=0.1)  # of a multinomial
    assert (weights == np.concatenate(list(resample(7, 1000, seed=3)))).all()


def test_samples_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resample(64, 100)))
    monkeypatch.setattr("captioner.evaluation.statistics._DRAWN_AT_ONCE", 640)
    parts = list(resample(64, 100))
    assert len(parts) == 10
    assert (np.concatenate(parts) == whole).all()


def test_scores_of_draws_are_those_of_the_drawn_images() -> None:
    """A draw's score equals that of a corpus in which each image occurs as often as drawn."""
    references, captions = corpus(6, seed=1)
    scored = score_corpus(Corpus(references, captions))
    weights = next(resample(6, 20))
    found = scored.weighed(weights)
    assert list(found) == list(scored.scores)
    for row, draw in enumerate(weights.astype(int)):
        drawn = [image for image, times in enumerate(draw) for _ in range(times)]
        anew = Corpus(
            {place: references[image] for place, image in enumerate(drawn)},
            {place: captions[image] for place, image in enumerate(drawn)},
        )
        for name, value in score_corpus(anew, ["bleu", "rouge"]).scores.items():
            assert found[name][row] == pytest.approx(value, abs=1e-9)
        assert found["CIDEr-D"][row] == pytest.approx(
            scored.per_image["CIDEr-D"][drawn].mean(), abs=1e-9
        )


def test_the_bootstrap_of_four_images_equals_all_256_samples() -> None:
    references, captions = corpus(4, seed=2)
    scored = score_corpus(Corpus(references, captions))
    every = np.array(
        [np.bincount(draw, minlength=4) for draw in product(range(4), repeat=4)], dtype=np.float64
    )
    exact = scored.weighed(every)
    (drawn,) = bootstrap([scored], 4, resamples=40_000)
    for name in scored.scores:
        for point in np.quantile(exact[name], [0.05, 0.3, 0.5, 0.8, 0.95]) + 1e-9:
            share = (exact[name] <= point).mean()
            assert (drawn[name] <= point).mean() == pytest.approx(
                share, abs=0.013
            )  # 5 standard errors
        assert drawn[name].mean() == pytest.approx(
            exact[name].mean(), abs=5 * exact[name].std() / 200 + 1e-9
        )


def test_p_value_is_twice_the_share_of_samples_with_the_opposite_sign() -> None:
    ours, theirs = np.array([0.5, 0.2, 0.9, 0.1, 0.6]), np.array([0.2, 0.3, 0.4, 0.2, 0.3])
    every = [(ours - theirs)[list(draw)].mean() for draw in product(range(5), repeat=5)]
    exact = 2 * np.mean(np.array(every) <= 1e-12)
    drawn = bootstrap([means(ours), means(theirs)], 5, resamples=40_000)
    assert 0.02 < exact < 0.2
    assert p_value((drawn[0]["CIDEr-D"] - drawn[1]["CIDEr-D"]).round(12), 40) == pytest.approx(
        exact, abs=0.01
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30))
def test_p_value_and_interval_agree_and_both_are_symmetric(values: list[float]) -> None:
    differences = bootstrap([means(np.array(values))], len(values), resamples=999)[0]["CIDEr-D"]
    p = p_value(differences, len(values))
    assert 0 < p <= 1
    assert p_value(-differences, len(values)) == p
    low, high = interval(differences)
    assert low <= high
    if low > 0 or high < 0:
        assert p <= max(0.055, 2 * 0.5 ** len(values))
    if low < 0 < high:
        assert p >= 0.045


def test_intervals_are_scipys_percentile_intervals() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(5).gamma(2, size=200)
    ours = interval(bootstrap([means(values)], 200, resamples=20_000)[0]["CIDEr-D"])
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(6)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.1 * (theirs.high - theirs.low))


def test_intervals_contain_the_truth_as_often_as_their_level_says() -> None:
    random = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        values = random.gamma(2, size=100)  # skewed as CIDEr-D is; the truth is 2
        low, high = interval(bootstrap([means(values)], 100, resamples=500)[0]["CIDEr-D"])
        held += low <= 2 <= high
    assert 0.90 <= held / 400 <= 0.98


def test_p_values_are_rarely_small_for_equal_systems_and_often_for_different_ones() -> None:
    random = np.random.default_rng(8)
    rejected = dict.fromkeys((0.0, 0.5), 0)
    for shift in rejected:
        for _ in range(300):
            common = random.normal(
                size=80
            )  # what makes an image easy for both: pairing takes it out
            ours, theirs = (common + 0.8 * random.normal(size=80) + plus for plus in (shift, 0))
            a, b = bootstrap([means(ours), means(theirs)], 80, resamples=500)
            rejected[shift] += p_value(a["CIDEr-D"] - b["CIDEr-D"], 80) < 0.05
    assert rejected[0.0] / 300 < 0.10
    assert rejected[0.5] / 300 > 0.90


def test_a_few_images_never_give_a_small_p_value() -> None:
    """The sign test's minimum: on five images, one system wins on all with probability 1/16."""
    for images in (1, 2, 3, 5):
        drawn = bootstrap(
            [means(np.linspace(0.3, 0.9, images)), means(np.zeros(images))], images, resamples=500
        )
        assert p_value(drawn[0]["CIDEr-D"] - drawn[1]["CIDEr-D"], images) == 2 / 2**images


def test_a_difference_of_an_undefined_score_is_undefined() -> None:
    ours, theirs = (
        means(np.array([0.3, np.nan, 0.4]), "SPICE"),
        means(np.array([0.1, 0.2, 0.3]), "SPICE"),
    )
    for systems in ((ours, theirs), (theirs, ours)):
        found = compare("theirs", *systems, bootstrap(systems, 3, resamples=50)).differences[
            "SPICE"
        ]
        assert np.isnan([found.difference, *found.interval, found.p_value]).all()


def test_draws_without_a_match_are_ties() -> None:
    """The official formula gives these slightly more than 0, depending on the number of n-grams."""
    references = {image: [f"w{image} the big x{image} y{image} z{image}"] for image in range(20)}
    ours = {image: f"w{image} q the q q" for image in references}
    theirs = {image: f"w{image} q q q" for image in references}
    a, b = (
        score_corpus(Corpus(references, ours), ["bleu"]),
        score_corpus(Corpus(references, theirs), ["bleu"]),
    )
    assert all(0 < a.scores[name] != b.scores[name] for name in a.scores)
    found = compare("theirs", a, b, bootstrap([a, b], 20, resamples=500)).differences
    assert found["BLEU-1"].p_value < 0.01
    for name in ("BLEU-2", "BLEU-3", "BLEU-4"):
        assert (found[name].difference, found[name].interval, found[name].p_value) == (0, (0, 0), 1)


def test_samples_that_differ_only_by_smoothing_are_ties() -> None:
    short, long = "a b c d e f", "g h i j k l m"
    references = {image: [short, long] for image in range(40)}
    a, b = (
        score_corpus(Corpus(references, dict.fromkeys(references, words)), ["bleu"])
        for words in (short, long)
    )
    assert a.scores["BLEU-4"] != b.scores["BLEU-4"] == pytest.approx(1)
    found = compare("theirs", a, b, bootstrap([a, b], 40, resamples=100)).differences
    assert {entry.p_value for entry in found.values()} == {1}


def test_a_system_does_not_differ_from_itself() -> None:
    references, captions = corpus(9, seed=4)
    scored = score_corpus(Corpus(references, captions))
    comparison = compare("same", scored, scored, bootstrap([scored, scored], 9, resamples=200))
    assert list(comparison.differences) == [
        "BLEU-1",
        "BLEU-2",
        "BLEU-3",
        "BLEU-4",
        "ROUGE-L",
        "CIDEr-D",
    ]
    for found in comparison.differences.values():
        assert (found.difference, found.interval, found.p_value) == (0, (0, 0), 1)


def test_a_comparison_has_the_sign_of_the_first_system() -> None:
    references, captions = corpus(40, seed=6)
    worse = {image: " ".join(["x", *text.split()[1:-1]]) for image, text in captions.items()}
    ours, theirs = (
        score_corpus(Corpus(references, captions)),
        score_corpus(Corpus(references, worse)),
    )
    comparison = compare("worse", ours, theirs, bootstrap([ours, theirs], 40, resamples=2000))
    for name, found in comparison.differences.items():
        assert found.other == theirs.scores[name]
        assert found.difference == pytest.approx(ours.scores[name] - theirs.scores[name])
        low, high = found.interval
        assert 0 < low < found.difference < high
        assert found.p_value == pytest.approx(2 / 2001)


def test_scores_that_are_not_means_are_bootstrapped_around_their_value() -> None:
    """METEOR's corpus score is not the mean over images."""
    scored = Scored(
        {"meteor": Measured({"METEOR": 0.3}, {"METEOR": np.array([0.1, 0.2, 0.3, 0.4])})}
    )
    assert scored.weighed(np.ones((1, 4)))["METEOR"] == pytest.approx([0.3])
    low, high = interval(bootstrap([scored], 4, resamples=500)[0]["METEOR"])
    assert low < 0.3 < high
