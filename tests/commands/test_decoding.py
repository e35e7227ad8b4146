"""The table of decoding options: flags, checks, the demo and its API."""

import dataclasses
import inspect
import re
from typing import Any

import pytest

from captioner.cli import parse
from captioner.commands.decoding import DECODING
from captioner.decoding.options import ENGLISH_ENDINGS, DecodingOptions, Option, decoding_options
from captioner.errors import ConfigError


def test_every_option_is_a_flag_of_each_command_that_captions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tuple(field.name for field in dataclasses.fields(DecodingOptions)) == DECODING
    for command, without in (
        ("caption", set()),
        ("evaluate", {"alternatives", "include"}),
        ("explain", {"alternatives"}),
    ):
        with pytest.raises(SystemExit, match="0"):
            parse([command, "--help"])
        text = capsys.readouterr().out
        for name in DECODING:
            flag = re.search(rf" --{name.replace('_', '-')}[ ,]", text)
            assert bool(flag) == (name not in without), (command, name)


@pytest.mark.parametrize("option", decoding_options(), ids=lambda option: option.name)
def test_a_flag_gives_a_value_that_the_options_take(option: Option) -> None:
    text, value = {
        "beam_size": ("7", 7),
        "alternatives": ("2", 2),
        "max_length": ("9", 9),
        "min_length": ("3", 3),
        "length_penalty": ("0.7", 0.7),
        "no_repeat_ngram": ("0", 0),
        "repeat_words": ("", True),
        "forbidden_endings": ("a, of", ("a", "of")),
        "say_tags": ("", True),
        "include": ("dog,red ball", ("dog", "red ball")),
        "style": ("plain", "plain"),
        "sample": ("", True),
        "temperature": ("0.5", 0.5),
        "top_k": ("9", 9),
        "top_p": ("0.9", 0.9),
        "seed": ("4", 4),
    }[option.name]
    flag = f"--{option.name.replace('_', '-')}"
    given = getattr(parse(["caption", "a.jpg", flag, *([text] if text else [])]), option.name)
    made = DecodingOptions.from_dict({"sample": option.group == "sampling", option.name: given})
    assert getattr(made, option.name) == value
    assert getattr(parse(["caption", "a.jpg"]), option.name) is None
    assert option.help and option.help in " ".join(inspect.getdoc(DecodingOptions).split())


def test_a_switch_that_the_model_has_on_can_be_turned_off() -> None:
    given = parse(["caption", "a.jpg", "--no-say-tags", "--no-repeat-words"])
    assert given.say_tags is False and given.repeat_words is False


def test_a_model_that_samples_can_search() -> None:
    own = DecodingOptions(sample=True, temperature=0.7, top_k=5, top_p=0.9, beam_size=3)
    assert own.changed({"sample": False}) == DecodingOptions(beam_size=3)
    assert own.changed({"top_k": 2}) == dataclasses.replace(own, top_k=2)
    with pytest.raises(ConfigError, match="top_k is 2; expected 0 unless sample is on"):
        own.changed({"sample": False, "top_k": 2})


def test_the_endings_have_a_name() -> None:
    named = DecodingOptions(forbidden_endings="english")
    assert named.forbidden_endings == ENGLISH_ENDINGS and len(ENGLISH_ENDINGS) == 18
    assert named == DecodingOptions.from_dict({"forbidden_endings": list(ENGLISH_ENDINGS)}), (
        "as older folders have it"
    )
    assert DecodingOptions.from_dict(named.to_dict()) == named and isinstance(
        named.to_dict()["forbidden_endings"], list
    )
    assert DecodingOptions().forbidden_endings == ()
    with pytest.raises(
        ConfigError, match="forbidden_endings is 'german'; expected a list of words"
    ):
        DecodingOptions(forbidden_endings="german")  # type: ignore[arg-type]


def test_an_option_of_words_needs_no_more_than_its_entry() -> None:
    option = Option("include", tuple, False, (), "Words that a caption contains.", metavar="WORDS")
    assert option.settle(option.words("dog, ball")) == ("dog", "ball")
    assert option.words("english") == ["english"], "the name of another option's list"
    option.check(())
    for wrong in ("dog", ["dog"], ("dog", 1), 3, None):
        with pytest.raises(ConfigError, match=r"include is .*; expected a list of words\."):
            option.check(wrong)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("beam_size", 0, "1 (greedy) or more"),
        ("beam_size", True, "a whole number"),
        ("beam_size", 2.0, "a whole number"),
        ("beam_size", None, "a whole number"),
        ("length_penalty", "1", "a number"),
        ("length_penalty", False, "a number"),
        ("length_penalty", 10.5, "-10 to 10"),
        ("min_length", -1, "0 to max_length"),
        ("min_length", 21, "0 to max_length (20); set both, or raise max_length"),
        ("sample", 1, "true or false"),
        ("seed", -1, "0 or more, or none"),
        ("seed", 1.5, "a whole number or none"),
        ("temperature", float("nan"), "a finite number above 0"),
        ("top_p", 0, "above 0, at most 1 (off)"),
        ("top_k", 3, "0 unless sample is on"),
        ("forbidden_endings", ["a", 3], "a list of words"),
    ],
)
def test_an_invalid_value_lists_the_expected_ones(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DecodingOptions.from_dict({name: value})
    value = tuple(value) if isinstance(value, list) else value
    assert str(caught.value) == f"{name} is {value!r}; expected {expected}."
