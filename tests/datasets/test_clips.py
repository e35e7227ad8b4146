"""Drawn clips: captions are true of the pixels, and the order of the frames is all that tells."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from captioner.annotations.events import load_events
from captioner.annotations.records import load_records
from captioner.datasets import clips
from captioner.datasets.clips import (
    RATE,
    Happening,
    draw_clips,
    draw_frames,
    draw_happening,
    write_clip,
)
from captioner.errors import MissingExtraError
from captioner.images.clips import ClipPart
from captioner.video.parts import read_frames

TINY_VIDEO = Path(__file__).parents[2] / "configs" / "tiny_video.yaml"

COUNT = 120
RGB = {
    "red": (214, 40, 40),
    "green": (60, 160, 70),
    "blue": (40, 90, 200),
    "yellow": (240, 200, 40),
}
SENTENCE = re.compile(r"a (\w+) (circle|square|triangle) ([a-z ]+?)(?:, then ([a-z ]+))?")


def look(frame: NDArray[np.uint8]) -> dict[str, tuple[float, float, int]]:
    """Each colour in a frame: the middle (x, y) of its bounding box, and how wide it is."""
    found = {}
    for color, rgb in RGB.items():
        rows, columns = np.nonzero((frame == rgb).all(axis=2))
        if len(rows):
            x, y = ((values.min() + values.max()) / 2 for values in (columns, rows))
            found[color] = (float(x), float(y), int(columns.max() - columns.min()))
    return found


def seen_in(frames: list[NDArray[np.uint8]]) -> set[str]:
    """What the shape in some frames does."""
    (first, (x, y, size)), (last, (other_x, other_y, other_size)) = (
        next(iter(look(frame).items())) for frame in (frames[0], frames[-1])
    )
    right, down, larger = other_x - x, other_y - y, other_size - size
    facts = {
        "moves right": right > 10,
        "moves left": right < -10,
        "moves down": down > 10,
        "moves up": down < -10,
        "grows": larger > 5,
        "shrinks": larger < -5,
        f"turns {last}": first != last,
    }
    return {fact for fact, holds in facts.items() if holds}


def test_captions_are_true_of_the_pixels() -> None:
    told = set()
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        happening = draw_happening(rng)
        frames = draw_frames(happening, rng)
        first = look(frames[0])
        caption = happening.captions()[0]
        if happening.other is not None:
            match = re.fullmatch(r"a (\w+) \w+ on the left swaps places with a (\w+) \w+", caption)
            assert match
            last = look(frames[-1])
            assert first[match[1]][0] < first[match[2]][0] - 10
            assert last[match[1]][0] > last[match[2]][0] + 10
            continue
        match = SENTENCE.fullmatch(caption)
        assert match, caption
        color, _, *steps = match.groups()
        assert first.keys() == {color}
        half = len(frames) // 2
        parts = [frames] if steps[1] is None else [frames[:half], frames[half:]]
        for step, part in zip(steps, parts, strict=False):
            assert seen_in(part) == {step}, caption
            told.add(step.split()[0])
    assert told == {"moves", "grows", "shrinks", "turns"}


class Mirrored(np.random.Generator):
    """The same places, but shapes that pass each other on the other side."""

    def choice(self, a: object, *args: object, **options: object) -> object:
        drawn = super().choice(a, *args, **options)  # type: ignore[call-overload]
        return -drawn if a == [-1, 1] else drawn


def there_and_back(number: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """The frames of a clip, and those of the clip of what happens in it backwards."""
    happening = draw_happening(np.random.default_rng(number))
    assert happening.backwards().backwards() == happening
    mirrored = Mirrored(np.random.default_rng(7).bit_generator)
    return (
        draw_frames(happening, np.random.default_rng(7)),
        draw_frames(happening.backwards(), mirrored),
    )


@pytest.mark.parametrize("number", range(30))
def test_a_clip_played_backwards_shows_what_happens_backwards(number: int) -> None:
    there, back = there_and_back(number)
    np.testing.assert_array_equal(there[::-1], back)


@pytest.mark.parametrize("number", range(30))
def test_the_frames_that_a_model_sees_are_the_same_backwards(number: int, tmp_path: Path) -> None:
    """Those of the shipped config: a model that takes their mean cannot tell what happens."""
    pytest.importorskip("av")
    frames = yaml.safe_load(TINY_VIDEO.read_text())["model"]["temporal"]["frames"]
    seen = []
    for name, drawn in zip(("there", "back"), there_and_back(number), strict=True):
        write_clip(tmp_path / f"{name}.mp4", drawn, key_frames_alone=True)
        sampled = read_frames(ClipPart(tmp_path / f"{name}.mp4"), frames)
        assert len({frame.tobytes() for frame in sampled}) > 1
        seen.append(sampled)
    there, back = ([frame.tobytes() for frame in sampled] for sampled in seen)
    assert there != back
    assert sorted(there) == sorted(back)


def test_what_happens_backwards_is_drawn_as_often() -> None:
    """Of 4,000 clips: each kind as often as its mirror image in time, but for chance."""
    steps: list[str] = []
    for number in range(4000):
        happening = draw_happening(np.random.default_rng((5, number)))
        steps += [f"{place} {step.split()[0]}" for place, step in enumerate(happening.steps)]
        steps += [step for step in happening.steps if step.startswith("moves")]
    pairs = [("moves left", "moves right"), ("moves up", "moves down"), ("0 grows", "0 shrinks")]
    pairs += [("1 turns", "1 moves"), ("1 grows", "1 shrinks")]
    for one, other in pairs:
        there, back = steps.count(one), steps.count(other)
        assert abs(there - back) < 4 * np.sqrt(there + back), (one, other)


def test_events_say_when_the_pixels_show_it() -> None:
    """Between the frames around an event it happens; a colour turns in the middle of one."""
    labels = set()
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        happening = draw_happening(rng)
        frames = draw_frames(happening, rng)
        for event in happening.events():
            labels.add(event.label.split()[0])
            first, end = (round(time * RATE) for time in (event.start, event.end))
            if happening.other is None:
                assert seen_in(frames[first:end]) == {event.label}
            else:
                assert (event.start, event.end, event.label) == (0, 2, "swap places")
            if event.label.startswith("turns"):
                assert (end - first) / RATE == 0.5
                middle = (first + end) // 2
                before, after = (next(iter(look(frames[i]))) for i in (middle - 1, middle))
                assert before != after
    assert labels == {"moves", "grows", "shrinks", "turns", "swap"}


def test_captions_say_who_does_what_in_which_order() -> None:
    happening = Happening("red", "circle", ("moves left", "turns blue"))
    assert happening.captions()[0] == "a red circle moves left, then turns blue"
    assert happening.backwards().captions()[0] == "a blue circle turns red, then moves right"
    swap = Happening("red", "circle", ("swaps",), ("blue", "square"))
    assert swap.captions()[0] == "a red circle on the left swaps places with a blue square"


def test_the_folder_has_a_table_of_clips_with_a_fifth_held_out(tmp_path: Path) -> None:
    pytest.importorskip("av")
    draw_clips(tmp_path / "deep" / "clips", 10)
    folder = tmp_path / "deep" / "clips"
    train, val = (load_records(folder / f"{split}.csv") for split in ("train", "val"))
    assert (len(train), len(val)) == (8, 2)
    assert {record.path for record in train + val} == set((folder / "clips").iterdir())
    for record in train + val:
        rng = np.random.default_rng((0, int(record.path.stem)))
        assert list(record.captions) == draw_happening(rng).captions()
    for name, records in (("events", val + train), ("val_events", val)):
        events = load_events(folder / f"{name}.csv")
        assert list(events) == [record.path for record in records]
        for path, told in events.items():
            happening = draw_happening(np.random.default_rng((0, int(path.stem))))
            assert list(told) == happening.events()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    draw_clips(folder, 50, seed=1)  # what is there is left alone
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise MissingExtraError("Writing clips", "video")

    monkeypatch.setattr(clips, "write_clip", stop)
    with pytest.raises(MissingExtraError, match=r"captioner\[video\]"):
        draw_clips(tmp_path / "clips", 5)
    assert not list(tmp_path.iterdir())
