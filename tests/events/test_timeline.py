"""Steps <-> events, held against brute force over the steps."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from captioner.errors import ConfigError
from captioner.events.config import EventConfig
from captioner.events.timeline import Event, find_events, label_steps

LABELS = ("grows", "moves", "turns")


@pytest.mark.parametrize("seed", range(50))
def test_events_are_the_longest_runs_of_probable_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, step, threshold = int(rng.integers(1, 12)), 0.25, float(rng.choice([0.3, 0.5, 1.0]))
    probabilities = rng.choice([0.0, 0.3, 0.5, 0.9, 1.0], (count, 3)).astype(np.float32)
    duration = count * step - 0.1
    expected = set()
    for column, label in enumerate(LABELS):
        high = [value >= np.float32(threshold) for value in probabilities[:, column]]
        for first in range(count):
            for end in range(first + 1, count + 1):
                grown = (first and high[first - 1]) or (end < count and high[end])
                if all(high[first:end]) and not grown:
                    mean = float(np.mean(probabilities[first:end, column]))
                    times = first * step, min(end * step, duration)
                    expected.add((*times, label, round(mean, 5)))
    found = find_events(probabilities, LABELS, step=step, duration=duration, threshold=threshold)
    assert {(e.start, e.end, e.label, round(e.probability, 5)) for e in found} == expected
    assert len(found) == len(expected)
    for one, other in pairwise(found):
        assert (one.start, one.end, one.label) <= (other.start, other.end, other.label)


@pytest.mark.parametrize("seed", range(50))
def test_an_event_happens_at_the_steps_whose_middle_it_covers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, start, step = 8, float(rng.choice([0.0, 1.5])), 0.25
    events = []
    for label in (*LABELS, "unknown"):
        begin = start + float(rng.uniform(-1, 2))
        events.append(Event(begin, begin + float(rng.choice([0.01, 0.1, 0.3, 1.0])), label))
    steps = label_steps(events, LABELS, start=start, step=step, count=count)
    for column, label in enumerate(LABELS):
        (event,) = (each for each in events if each.label == label)
        for row in range(count):
            first, last = start + row * step, start + (row + 1) * step
            covers = event.start <= (first + last) / 2 < event.end
            holds = first <= (event.start + event.end) / 2 < last
            assert steps[row, column] == (covers or holds)


def test_events_at_the_borders_of_steps_come_back_as_they_were() -> None:
    events = (Event(0, 1, "moves"), Event(0.5, 0.75, "turns"), Event(1.5, 2, "moves"))
    steps = label_steps(events, LABELS, start=0, step=0.25, count=8)
    assert find_events(steps, LABELS, step=0.25, duration=2.0) == events


def test_an_event_knows_its_json() -> None:
    assert Event(0.12345, 1, "moves", 0.98765).to_dict() == {
        "start": 0.123,
        "end": 1,
        "label": "moves",
        "probability": 0.9877,
    }


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan"), "x", None])
def test_a_threshold_is_a_probability(threshold: Any) -> None:
    with pytest.raises(ConfigError, match="threshold is"):
        find_events(np.zeros((1, 3), np.float32), LABELS, step=1, duration=1, threshold=threshold)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"labels": [], "seconds": 2}, "labels"),
        ({"labels": ["a", "a"], "seconds": 2}, "labels"),
        ({"labels": ["a", " "], "seconds": 2}, "labels"),
        ({"labels": "ab", "seconds": 2}, "labels"),
        ({"labels": ["a"], "seconds": 0}, "seconds"),
        ({"labels": ["a"], "seconds": True}, "seconds"),
        ({"labels": ["a"]}, "keys"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EventConfig.from_dict(values)


def test_a_config_comes_back_from_json() -> None:
    config = EventConfig(("a", "b"), 2.5)
    assert EventConfig.from_dict(config.to_dict()) == config
