from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.decoding import DecodingOptions
from captioner.explain import attention_map, heat, photo_seen
from captioner.explain.maps import dimmed, enlarge
from captioner.images import open_image
from captioner.inference import Captioner
from captioner.preprocessing import Preprocessing

PHOTO = Path(__file__).parents[1] / "examples" / "pagoda.jpg"


def grid_of(seed: int, height: int = 7, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)).astype(np.float32)


def basis(order: int, x: float) -> float:
    """The B-spline of an order, centred on 0, by the recursion of Cox and de Boor."""
    if order == 0:
        return float(-0.5 <= x < 0.5)
    half = (order + 1) / 2
    return ((half + x) * basis(order - 1, x + 0.5) + (half - x) * basis(order - 1, x - 0.5)) / order


@cache
def mirrored(cell: int, cells: int) -> int:
    return min(cell % (2 * cells), 2 * cells - 1 - cell % (2 * cells))


@pytest.mark.parametrize(
    ("shape", "size"), [((7, 7), (10, 9)), ((3, 5), (8, 4)), ((1, 2), (5, 3)), ((1, 1), (2, 2))]
)
def test_maps_are_enlarged_by_the_cubic_spline(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    grid, (width, height) = grid_of(1, *shape), size
    expected = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        v, u = (y + 0.5) * shape[0] / height - 0.5, (x + 0.5) * shape[1] / width - 0.5
        for i in range(-3, shape[0] + 3):
            for j in range(-3, shape[1] + 3):
                value = grid[mirrored(i, shape[0]), mirrored(j, shape[1])]
                expected[y, x] += basis(3, v - i) * basis(3, u - j) * value
    assert enlarge(grid, size) == pytest.approx(expected, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    factor=st.integers(2, 9),
)
def test_enlarging_keeps_the_mean_and_never_overshoots(
    seed: int, height: int, width: int, factor: int
) -> None:
    grid = grid_of(seed, height, width)
    large = enlarge(grid, (factor * width, factor * height))
    assert large.shape == (factor * height, factor * width)
    assert large.mean() == pytest.approx(grid.mean(), rel=1e-4)
    assert grid.min() - 1e-6 <= large.min() and large.max() <= grid.max() + 1e-6
    flipped = enlarge(grid[:, ::-1], (factor * width, factor * height))
    assert flipped[:, ::-1] == pytest.approx(large, abs=1e-5)


@pytest.mark.parametrize("cell", [(0, 0), (0, 6), (3, 2), (6, 5)])
def test_a_peak_stays_in_its_cell(cell: tuple[int, int]) -> None:
    grid = 0.2 * grid_of(3)
    grid[cell] = 1
    large = attention_map(grid, (140, 70))
    row, column = np.unravel_index(large.argmax(), large.shape)
    assert (row // 10, column // 20) == cell
    assert large.dtype == np.float32


def test_a_map_for_the_eye_goes_from_nothing_to_its_peak() -> None:
    grid = grid_of(4)
    grid[2:, 2:] = -1  # what lowers a word's probability has no place in its map
    large = attention_map(grid, 50)
    assert (large.shape, large.min(), large.max()) == ((50, 50), 0, 1)
    assert not large[33:, 33:].any(), "beyond the reach of the cells above 0"
    assert not attention_map(np.full((7, 7), -1.0), 20).any()
    assert attention_map(np.full((7, 7), 1 / 49), 20) == pytest.approx(np.ones((20, 20))), (
        "looked everywhere alike"
    )
    assert attention_map(5 * grid_of(4), 30) == pytest.approx(
        attention_map(grid_of(4), 30), abs=1e-6
    )


@pytest.mark.parametrize("resize", ["squash", "center_crop"])
def test_the_photo_is_shown_as_the_encoder_saw_it(captioner: Captioner, resize: str) -> None:
    preprocessing = Preprocessing(size=64, resize=resize)  # type: ignore[arg-type]
    model = Captioner(captioner.backend, captioner.vocabulary, preprocessing, DecodingOptions())
    photo = open_image(PHOTO)
    seen = photo_seen(model, PHOTO)
    assert np.array_equal(
        np.asarray(seen), np.asarray(preprocessing.fit(open_image(PHOTO, min_size=64)))
    )

    shown = photo_seen(model, photo, longest=200)
    assert shown.size == (
        (200, round(200 * photo.height / photo.width)) if resize == "squash" else (200, 200)
    )
    again = np.asarray(shown.resize((64, 64), Image.Resampling.BICUBIC), float)
    assert np.abs(again - np.asarray(preprocessing.fit(photo), float)).mean() < 3, (
        "the same part of the photo"
    )
    assert photo_seen(model, photo.resize((40, 30)), longest=200).size == (
        (40, 30) if resize == "squash" else (30, 30)
    )


@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (1, 1)])
def test_strips_are_shown_too(captioner: Captioner, size: tuple[int, int]) -> None:
    shown = photo_seen(captioner, Image.new("RGB", size), longest=300)
    assert max(shown.size) <= 300
    assert max(shown.size) <= 3 * min(shown.size)


def test_heat_glows_where_the_map_is_high_and_dims_the_rest() -> None:
    photo = open_image(PHOTO).resize((60, 40))
    steps = np.repeat(np.linspace(0, 1, 60, dtype=np.float32)[None], 40, axis=0)
    assert np.array_equal(np.asarray(heat(photo, 0 * steps)), np.asarray(dimmed(photo)))
    grey = heat(Image.new("RGB", (60, 40), (90, 90, 90)), steps)
    light = np.asarray(grey.convert("L"), float)[0]
    assert light[-1] > light[0] + 80
    assert (np.diff(light[20:]) >= -1).all(), "brighter and brighter"
    assert np.asarray(heat(photo, steps)).shape == (40, 60, 3)
