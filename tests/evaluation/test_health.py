"""Statistics of captions, counted by hand and by brute force."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from captioner.decoding.options import ENGLISH_ENDINGS, DecodingOptions
from captioner.evaluation.health import FIGURES, check_health, figure_text, most_frequent

CAPTIONS = [
    caption.split()
    for caption in (
        "a dog runs",
        "a dog runs",
        "two men sit on the",
        "a cat and a cat and a cat",  # two trigrams come twice
        "",
        "<unk> rides a bike",
    )
]


def test_statistics_equal_hand_counts() -> None:
    figures = check_health(CAPTIONS, {("a", "dog", "runs")})
    assert figures == {
        "mean length": pytest.approx(23 / 6),
        "vocabulary": 13,
        "distinct-1": pytest.approx(13 / 23),
        "distinct-2": pytest.approx(12 / 18),
        "unique captions": pytest.approx(5 / 6),
        "novel captions": pytest.approx(4 / 6),
        "most frequent caption": 2,
        "bad endings": pytest.approx(1 / 6),
        "repeated trigrams": pytest.approx(1 / 6),
        "repeated words": pytest.approx(1 / 6),
        "empty captions": 1,
        "unknown words": 1,
    }
    assert list(figures) == list(FIGURES)


def test_novelty_requires_training_captions() -> None:
    assert set(FIGURES) - set(check_health(CAPTIONS)) == {"novel captions"}


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=9), min_size=1, max_size=9))
def test_shares_lie_between_0_and_1_and_repeats_are_those_of_brute_force(
    captions: list[list[str]],
) -> None:
    figures = check_health(captions, [])
    for name, value in figures.items():
        assert isinstance(value, float) == (name not in _COUNTS)
        if isinstance(value, float) and name != "mean length":
            assert 0 <= value <= 1
    repeating = sum(
        any(words[i : i + 3] == words[j : j + 3] for i in range(len(words) - 2) for j in range(i))
        for words in captions
    )
    assert figures["repeated trigrams"] == repeating / len(captions)
    again = sum(
        len(set(words)) < len(words) - words.count("a") + ("a" in words) for words in captions
    )
    assert figures["repeated words"] == again / len(captions), "'a' may occur again"
    assert figures["novel captions"] == 1
    spaced = [" ".join(words) for words in captions]
    assert spaced.count(most_frequent(spaced, captions)) == figures["most frequent caption"]


_COUNTS = ("vocabulary", "most frequent caption", "empty captions", "unknown words")


def test_the_most_frequent_caption_keeps_its_first_spelling() -> None:
    assert (
        most_frequent(["A cat!", "A dog.", "a dog"], [["a", "cat"], ["a", "dog"], ["a", "dog"]])
        == "A dog."
    )


def test_the_endings_are_those_that_shipped_configs_forbid() -> None:
    found = {}
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")):
        decoding = (
            yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {}).get("decoding", {})
        )
        if "forbidden_endings" in decoding:
            found[path.name] = DecodingOptions.from_dict(decoding).forbidden_endings
    assert "flickr8k.yaml" in found and "coco.yaml" in found
    assert found == dict.fromkeys(found, ENGLISH_ENDINGS)


def test_statistics_are_formatted_for_people() -> None:
    assert figure_text("vocabulary", 1234) == "1,234"
    assert figure_text("mean length", 10.46) == "10.5"
    assert figure_text("distinct-2", 0.0316) == "0.032"
    assert figure_text("bad endings", 0.0316) == "3.2 %"
