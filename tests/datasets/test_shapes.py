"""The drawn data set: captions match pixels, and it is written atomically."""

import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from captioner.annotations.records import Record, check_images, load_records
from captioner.datasets.shapes import draw_shapes

COUNT = 200
RGB = {
    "red": (214, 40, 40),
    "green": (60, 160, 70),
    "blue": (40, 90, 200),
    "yellow": (240, 200, 40),
}
SENTENCE = re.compile(r"a (\w+) (\w+) (?:is )?(above|below|left of|right of) a (\w+) (\w+)")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    draw_shapes(folder, COUNT)
    return folder


def load(folder: Path, split: str) -> list[Record]:
    return load_records(folder / "annotations" / f"captions_{split}.json", folder / "images")


def pixels_of(record: Record) -> NDArray[np.uint8]:
    with Image.open(record.path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def shape_of(mask: NDArray[np.bool_]) -> str:
    """What a mask shows, by how much of its bounding box it fills: all, pi / 4 or half."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    filled = mask.sum() / ((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1))
    return "square" if filled > 0.9 else "circle" if filled > 0.66 else "triangle"


def look(pixels: NDArray[np.uint8]) -> dict[str, tuple[str, float, float]]:
    """Each colour in the image, with its shape and its middle (x, y)."""
    found = {}
    for color, rgb in RGB.items():
        mask = (pixels == rgb).all(axis=2)
        if mask.any():
            y, x = (float(positions.mean()) for positions in np.nonzero(mask))
            found[color] = shape_of(mask), x, y
    return found


def test_captions_are_true_of_the_pixels(drawn: Path) -> None:
    told = set()
    for record in load(drawn, "train") + load(drawn, "val"):
        found = look(pixels_of(record))
        assert len(found) == 2
        assert len(record.captions) == 3
        for caption in record.captions:
            match = SENTENCE.search(caption.lower())
            assert match, caption
            color, shape, place, other_color, other_shape = match.groups()
            assert found.keys() == {color, other_color}, caption
            assert found[color][0] == shape, caption
            assert found[other_color][0] == other_shape, caption
            right, down = (found[color][axis] - found[other_color][axis] for axis in (1, 2))
            really = (
                ("right of" if right > 0 else "left of")
                if abs(right) > abs(down)
                else "below"
                if down > 0
                else "above"
            )
            assert place == really, caption
            told |= {color, shape, place}
    assert told == {*RGB, "circle", "square", "triangle", "above", "below", "left of", "right of"}


def test_it_is_a_coco_data_set_with_a_fifth_held_out(drawn: Path) -> None:
    train, val = load(drawn, "train"), load(drawn, "val")
    assert (len(train), len(val)) == (COUNT * 4 // 5, COUNT // 5)
    check_images(train + val)
    assert {record.path for record in train + val} == set((drawn / "images").iterdir())
    assert {path.name for path in drawn.iterdir()} == {"images", "annotations"}
    assert len({record.image_id for record in train}) == len(train)


def test_no_held_out_image_is_trained_on(drawn: Path) -> None:
    train, val = (
        {pixels_of(record).tobytes() for record in load(drawn, split)} for split in ("train", "val")
    )
    assert len(train) + len(val) == COUNT
    assert not train & val


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_draws_the_same_and_another_seed_something_else(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_shapes(tmp_path / "deep" / name, 10, seed)
    a, b, c = (contents(tmp_path / "deep" / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert not {a[name] for name in a if name.endswith(".png")} & {
        c[name] for name in c if name.endswith(".png")
    }


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    draw_shapes(folder, 5)
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    draw_shapes(folder, 50, seed=1)
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


def test_an_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = Image.Image.save, []

    def save_some(image: Image.Image, path: Path) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", save_some)
        with pytest.raises(KeyboardInterrupt):
            draw_shapes(tmp_path / "shapes", 10)
    assert len(saved) == 3
    assert not list(tmp_path.iterdir())
    draw_shapes(tmp_path / "shapes", 10)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_processes_that_draw_at_once_end_up_with_one_folder(tmp_path):
    with ProcessPoolExecutor(3) as processes:
        list(processes.map(draw_shapes, [tmp_path / "shapes"] * 3, [20] * 3))
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert len(list((tmp_path / "shapes" / "images").iterdir())) == 20
