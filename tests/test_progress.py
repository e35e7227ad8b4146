from collections.abc import Callable

import pytest

from captioner.progress import ProgressLines


def lines(total: int | None, steps: list[tuple[float, int]], done: int = 0) -> list[str]:
    """What is told when, at these seconds, so many things are done."""
    told: list[str] = []
    times = iter([0.0, *(seconds for seconds, _ in steps)])
    clock: Callable[[], float] = lambda: next(times)  # noqa: E731
    progress = ProgressLines("Copying", total, "files", told.append, done=done, clock=clock)
    for _, count in steps:
        progress.at(count)
    return told


def test_a_line_a_minute_says_what_is_done_and_what_is_left() -> None:
    steps = [(30.0, 10), (60.0, 20), (61.0, 21), (119.0, 39), (121.0, 40), (200.0, 1200)]
    assert lines(1200, steps) == [
        "Copying: 20 of 1,200 files, about 59 minutes left",
        "Copying: 40 of 1,200 files, about 58 minutes left",
        "Copying: 1,200 of 1,200 files",
    ]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([(60.0, 99)], "less than a minute"),
        ([(60.0, 50)], "about 1 minute"),
        ([(3600.0, 10)], "about 9.0 hours"),
    ],
)
def test_the_time_that_is_left_follows_from_the_pace(
    steps: list[tuple[float, int]], said: str
) -> None:
    assert lines(100, steps) == [f"Copying: {steps[0][1]} of 100 files, {said} left"]


def test_what_was_done_before_says_nothing_of_the_pace() -> None:
    assert lines(100, [(60.0, 80)], done=70) == ["Copying: 80 of 100 files, about 2 minutes left"]
    assert lines(100, [(60.0, 70)], done=70) == ["Copying: 70 of 100 files"]


def test_where_nobody_knows_how_many_there_are_the_line_says_what_is_done() -> None:
    assert lines(None, [(60.0, 1234)]) == ["Copying: 1,234 files"]
