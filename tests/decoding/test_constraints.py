import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from captioner.decoding import Constraints, DecodingOptions
from captioner.errors import ConfigError
from captioner.vocabulary import PAD, SPECIAL_WORDS, Vocabulary

HISTORIES = arrays(
    np.int64, array_shapes(min_dims=3, max_dims=3, max_side=8), elements=st.integers(4, 6)
)


@settings(deadline=None)
@given(HISTORIES, st.integers(0, 5))
def test_banned_words_are_those_that_would_repeat_an_ngram(history: np.ndarray, n: int) -> None:
    banned = Constraints(8, no_repeat_ngram=n).banned(history)
    assert banned.shape[:2] == history.shape[:2]
    most = 0
    for row in np.ndindex(banned.shape[:2]):
        words = history[row].tolist()
        ngrams = [words[i : i + n] for i in range(len(words) - n + 1)] if n else []
        expected = {word for word in range(4, 8) if [*words, word][len(words) - n + 1 :] in ngrams}
        assert set(banned[row].tolist()) - {PAD} == expected
        most = max(
            most, len([ngram for ngram in ngrams if ngram[:-1] == words[len(words) - n + 1 :]])
        )
    assert banned.shape[2] == most


def test_no_word_follows_itself_where_that_is_off() -> None:
    constraints = Constraints(8, no_repeat_ngram=2, repeat_words=False)
    banned = constraints.banned(np.array([[[4, 5, 4], [4, 5, 6]], [[6, 5, 5], [7, 7, 7]]]))
    assert [[set(beam) - {PAD} for beam in image] for image in banned.tolist()] == [
        [{4, 5}, {6}],
        [{5}, {7}],
    ]
    assert constraints.banned(np.zeros((2, 3, 0), np.int64)).size == 0


def test_words_occur_once_but_for_those_that_never_end_a_caption() -> None:
    constraints = Constraints(9, repeat_words=False, forbidden_endings=[4, 5])
    banned = constraints.banned(np.array([[[4, 7, 5, 4, 6], [4, 8, 4, 8, 5], [6, 7, 8, 4, 7]]]))
    assert [set(beam) - {PAD} for beam in banned[0].tolist()] == [{6, 7}, {5, 8}, {6, 7, 8}]


def test_no_history_bans_nothing() -> None:
    assert Constraints(8, no_repeat_ngram=1).banned(np.zeros((2, 3, 0), np.int64)).shape == (
        2,
        3,
        0,
    )


def test_may_end_after_the_minimum_length_and_not_after_forbidden_endings() -> None:
    constraints = Constraints(8, min_length=2, forbidden_endings=[5])
    assert not constraints.may_end(np.zeros((1, 1, 0), np.int64)).any()
    assert not constraints.may_end(np.array([[[4], [5]]])).any()
    assert constraints.may_end(np.array([[[5, 4], [4, 5]], [[4, 4], [6, 7]]])).tolist() == [
        [True, False],
        [True, True],
    ]
    assert Constraints(8, min_length=0).may_end(np.zeros((2, 1, 0), np.int64)).tolist() == [
        [True],
        [True],
    ]


def test_forbidden_endings_are_words_and_unknown_ones_are_ignored() -> None:
    vocabulary = Vocabulary([*SPECIAL_WORDS, "a", "dog"])
    options = DecodingOptions(
        forbidden_endings=("a", "the", "<end>"), min_length=1, no_repeat_ngram=2
    )
    constraints = Constraints.from_options(options, vocabulary)
    assert constraints.vocab_size == 6
    assert constraints.no_repeat_ngram == 2
    assert constraints.may_end(np.array([[[4], [5]]])).tolist() == [[False, True]]


def test_options_survive_json() -> None:
    options = DecodingOptions(beam_size=7, forbidden_endings=("a", "of"), length_penalty=0.7)
    assert options.to_dict()["forbidden_endings"] == ["a", "of"]
    assert DecodingOptions.from_dict(options.to_dict()) == options
    assert DecodingOptions.from_dict({}) == DecodingOptions()
    included = DecodingOptions(include=("cat", "traffic light"))
    assert included.to_dict()["include"] == ["cat", "traffic light"]
    assert DecodingOptions.from_dict(included.to_dict()) == included
    assert hash(DecodingOptions.from_dict({"forbidden_endings": ["a"]})) == hash(
        DecodingOptions(forbidden_endings=("a",))
    )


def test_numbers_may_be_of_numpy() -> None:
    numbers = {"beam_size": np.int64(3), "length_penalty": np.float32(0.5)}
    options = DecodingOptions().changed(numbers)
    assert (options.beam_size, options.length_penalty) == (3, 0.5)
    assert json.loads(json.dumps(options.to_dict()))["beam_size"] == 3
    with pytest.raises(ConfigError, match="expected a whole number"):
        DecodingOptions().changed({"beam_size": np.float64(2.5)})


def test_unknown_options_are_named_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"'beam'; expected one of beam_size, alternatives, max_length"
    ):
        DecodingOptions.from_dict({"beam": 3})
    with pytest.raises(ConfigError, match="a JSON object"):
        DecodingOptions.from_dict([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0; expected 1"),
        ({"beam_size": 2.0}, "beam_size is 2.0; expected a whole number"),
        ({"beam_size": True}, "beam_size is True; expected a whole number"),
        ({"beam_size": "5"}, "beam_size is '5'; expected a whole number"),
        ({"alternatives": 6}, r"alternatives is 6; expected at most beam_size \(5\)"),
        ({"alternatives": 0}, "alternatives is 0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"min_length": 21}, "min_length is 21; expected 0 to max_length"),
        ({"min_length": -1}, "min_length is -1"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"length_penalty": "1"}, "length_penalty is '1'; expected a number"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
        ({"forbidden_endings": "a"}, "forbidden_endings is 'a'; expected a list of words"),
        ({"forbidden_endings": [1]}, "expected a list of words"),
        ({"include": "a"}, "include is 'a'; expected a list of words"),
        ({"include": [["a"]]}, "expected a list of words"),
        (
            {"include": ["a"], "sample": True},
            r"include is \('a',\); expected none while sample is on",
        ),
        ({"sample": 1}, "sample is 1; expected true or false"),
        ({"sample": True, "temperature": 0.0}, "temperature is 0.0"),
        ({"sample": True, "temperature": float("inf")}, "temperature is inf"),
        ({"sample": True, "top_k": -1}, "top_k is -1"),
        ({"sample": True, "top_p": 0.0}, "top_p is 0.0"),
        ({"sample": True, "top_p": 1.1}, "top_p is 1.1"),
        ({"sample": True, "seed": -1}, "seed is -1"),
        ({"sample": True, "seed": 1.5}, "seed is 1.5"),
        ({"temperature": 0.7}, "temperature is 0.7; expected 1 unless sample is on"),
        ({"top_k": 5}, "top_k is 5; expected 0 unless sample is on"),
        ({"top_p": 0.9}, "top_p is 0.9; expected 1 unless sample is on"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecodingOptions.from_dict(options)


def test_sampling_draws_more_than_there_are_beams() -> None:
    assert DecodingOptions(beam_size=1, alternatives=9, sample=True).alternatives == 9
