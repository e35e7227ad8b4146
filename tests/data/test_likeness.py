"""Sources that are drawn as a text says: weights of images, and their draws."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from captioner.data.datamodule import CaptionData
from captioner.data.likeness import likeness, read_sentences
from captioner.data.sampling import Draws
from captioner.data.sources import Source
from captioner.errors import DataError
from captioner.tokenizer import tokenize
from tests.training.domains import OLD, draw_domain


def weigh(captions: list[list[str]], text: list[str]) -> np.ndarray:
    return likeness(
        [[tokenize(caption) for caption in image] for image in captions],
        [tokenize(sentence) for sentence in text],
    )


def test_an_image_counts_by_the_frequencies_of_its_nouns() -> None:
    captions = [["a cat on a mat"]] * 80 + [["a dog on a mat"]] * 20
    weights = weigh(captions, ["the dog on the mat", "a cat on a mat"] * 100)
    # 10 of the 100 captions are added to each frequency; mats are as frequent here as there.
    cat, dog = (0.6 / 0.9) ** 0.45, (0.6 / 0.3) ** 0.45
    mean = 0.8 * cat + 0.2 * dog
    assert weights == pytest.approx(np.array([cat] * 80 + [dog] * 20) / mean)


def test_forms_of_a_noun_are_one_and_only_nouns_count() -> None:
    text = ["two dogs on mats", "a sleepy cat on a mat"] * 50
    assert weigh([["a dog on a mat"], ["two cats on mats"]] * 50, text) == pytest.approx(1)
    assert weigh([["a dog on a mat"], ["a sleepy dog on a mat"]] * 50, text) == pytest.approx(1)


@pytest.mark.parametrize("form", ["dogs", "beds", "children"])
def test_forms_that_only_captions_or_only_the_text_has_are_one(form: str) -> None:
    one = {"dogs": "dog", "beds": "bed", "children": "child"}[form]
    captions = [[f"a {one} on a mat"]] * 50 + [["a cat on a mat"]] * 50
    text = [f"a {one} on a mat"] * 80 + ["a cat on a mat"] * 20
    expected = weigh(captions, text)
    assert expected[0] > 1.2 > 0.8 > expected[-1]
    other = [sentence.replace(one, form) for sentence in text]
    assert weigh(captions, other) == pytest.approx(expected)
    other = [[caption.replace(one, form) for caption in image] for image in captions]
    assert weigh(other, text) == pytest.approx(expected)


def test_verbs_with_the_base_of_a_noun_do_not_count() -> None:
    captions = [["a car parked on a street"]] * 50 + [["a car on a street"]] * 50
    assert weigh(captions, ["a car on a street in a park"] * 100) == pytest.approx(1)


def test_an_image_counts_by_the_mean_over_its_captions() -> None:
    cats, dogs, both = ["a cat"], ["a dog"], ["a cat", "a dog"]
    weights = weigh([cats] * 40 + [dogs] * 10 + [both] * 10, ["a dog", "a dog", "a cat"] * 30)
    assert weights[0] < weights[50] < weights[40]
    assert weights[50] == pytest.approx(np.sqrt(weights[0] * weights[40]))


def test_weights_are_limited_around_their_mean_of_one() -> None:
    captions = [["a cat"]] * 995 + [["a dog and a bone"]] * 5
    weights = weigh(captions, ["a dog and a bone"] * 999 + ["a cat"])
    assert weights.mean() == pytest.approx(1)
    assert weights.max() == pytest.approx(3.5, rel=0.02)


def test_images_are_drawn_as_often_as_they_weigh() -> None:
    weights = np.array([0.2, 0.5, 1.0, 1.3, 2.0])
    draws = Draws(5, 7, weights)
    epochs = 200
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        drawn = Counter(draws.of(epoch, (3,)).tolist())
        assert drawn.total() == 7
        for index, share in enumerate(7 * weights / weights.sum()):
            assert np.floor(share) <= drawn[index] <= np.ceil(share)
        seen.update(drawn)
    expected = 7 * weights / weights.sum()
    assert [seen[index] / epochs for index in range(5)] == pytest.approx(expected, abs=0.02)
    assert draws.of(1, (3,)).tolist() == Draws(5, 7, weights).of(1, (3,)).tolist()


def test_a_source_is_drawn_like_a_text(tmp_path: Path) -> None:
    photos = draw_domain(tmp_path / "old", OLD, 48)
    (tmp_path / "text.txt").write_text("a red square\n\na blue square\n" * 30)
    data = CaptionData(
        sources={"old": Source(photos, like=tmp_path / "text.txt")}, val=photos, min_count=1
    )
    order = data.training.draws[0].of(0, (0,))
    squares = [
        any("square" in caption for caption in data.training.records[index].captions)
        for index in order
    ]
    assert len(order) == 48
    assert np.mean(squares) > 0.4  # of the images, a third


def test_a_text_without_words_or_that_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n...\n")
    with pytest.raises(DataError, match="no words; expected a text with a sentence per line"):
        read_sentences(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_sentences(tmp_path / "none.txt")
