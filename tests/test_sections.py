"""Sections of a checkpoint's config: exactly their keys, and values that make sense."""

from dataclasses import dataclass
from typing import Any

import pytest

from captioner.errors import ConfigError
from captioner.events.config import EventConfig
from captioner.sections import are_names, check_positive, read_section


@dataclass(frozen=True)
class Pair:
    names: tuple[str, ...]
    number: float


def test_lists_become_tuples() -> None:
    assert read_section(Pair, "pair", {"names": ["a", "b"], "number": 1}) == Pair(("a", "b"), 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"names": []}, r"pair has the keys \['names'\]; expected \['names', 'number'\]"),
        ({"names": [], "number": 1, "more": 2}, "pair has the keys"),
        (["names", "number"], "pair is .*; expected an object"),
        (7, "pair is 7; expected an object"),
    ],
)
def test_other_keys_are_errors(values: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_section(Pair, "pair", values)


@pytest.mark.parametrize("value", [(), ("a", "a"), ("a", " "), ("a", 1), ["a"], "a", None])
def test_names_are_different_words(value: object) -> None:
    assert are_names(("a", "b")) and not are_names(value)


@pytest.mark.parametrize("value", [0, -1, 10**400, float("inf"), float("nan"), True, "1", None])
def test_a_positive_number_is_one(value: object) -> None:
    check_positive("number", 0.5)
    with pytest.raises(ConfigError, match=r"number is .*; expected a positive number"):
        check_positive("number", value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"labels": ["beep", "beep"], "seconds": 2}, "events.labels is"),
        ({"labels": ["beep"], "seconds": 0}, "events.seconds is 0"),
        ({"labels": ["beep"]}, "events has the keys"),
        (["labels", "seconds"], "events is"),
    ],
)
def test_events_are_checked(values: Any, said: str) -> None:
    assert EventConfig.from_dict(EventConfig(("beep",), 2).to_dict()) == EventConfig(("beep",), 2)
    with pytest.raises(ConfigError, match=said):
        EventConfig.from_dict(values)
