import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from captioner.errors import ImageError
from captioner.images import open_image


def reason(source: object, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value.reason


GRADIENT = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize(
    "array",
    [
        np.rint(GRADIENT * 255).astype(np.uint8),
        np.rint(GRADIENT * 65535).astype(np.uint16),
        np.rint(GRADIENT * 65535).astype(">u2"),
        GRADIENT.astype(np.float16),
        GRADIENT.astype(np.float32),
        GRADIENT,
        GRADIENT * (1 + 1e-4) - 1e-5,
        GRADIENT.astype(np.longdouble),
    ],
    ids=lambda array: array.dtype.str,
)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_arrays_of_every_dtype_and_shape_show_the_same_gradient(array, channels):
    source = array if channels is None else np.repeat(array[..., None], channels, axis=2)
    result = np.asarray(open_image(source)).astype(int)
    assert np.abs(result - np.arange(256).reshape(16, 16, 1)).max() <= (array.dtype == np.float16)


def test_boolean_arrays_are_black_and_white():
    assert np.asarray(open_image(np.array([[True, False]]))).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("top", [np.uint8(255), np.uint16(65535), np.float32(1)])
def test_the_fourth_channel_of_an_array_is_alpha(top):
    array = np.array([[[0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]]]) * top
    assert np.asarray(open_image(array.astype(top.dtype))).tolist() == [
        [[0] * 3, [255] * 3, [255, 0, 0]]
    ]


def test_array_views_are_read_as_they_look():
    array = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    for view in (
        array[:, ::-1],
        array[..., ::-1],
        array[::3, ::2],
        np.asfortranarray(array),
        array.transpose(1, 0, 2),
    ):
        assert np.array_equal(np.asarray(open_image(view)), view)


def test_an_array_is_not_shared_with_the_result():
    for shape in ((4, 4), (4, 4, 3), (4, 4, 4)):
        array = np.full(shape, 255, np.uint8)
        image = open_image(array)
        array[:] = 0
        assert np.asarray(image).min() == 255


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(5, np.uint8), "shape (5,)"),
        (np.zeros((), np.uint8), "shape ()"),
        (np.zeros((2, 4, 4, 3), np.uint8), "shape (2, 4, 4, 3)"),
        (np.zeros((4, 4, 2), np.uint8), "shape (4, 4, 2)"),
        (np.zeros((3, 8, 8), np.uint8), "move the channels last"),
        (np.zeros((4, 4), np.int64), "dtype int64"),
        (np.zeros((4, 4), np.int8), "dtype int8"),
        (np.zeros((4, 4), np.complex64), "dtype complex64"),
        (np.full((4, 4), "a"), "dtype <U1"),
        (np.full((4, 4), None), "dtype object"),
        (np.full((4, 4), 200.0), "divide 0..255 by 255"),
        (np.full((4, 4), -1.0), "expected 0..1"),
        (np.full((4, 4), 1e9), "expected 0..1"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4, 3), -np.inf, np.float16), "infinite"),
    ],
)
def test_arrays_that_are_no_images_are_refused_with_what_is_wrong(array, words):
    assert words in reason(array)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (5, 0, 3), (0, 0)])
def test_arrays_without_pixels_are_refused(shape):
    assert reason(np.zeros(shape, np.uint8)) == "has no pixels"


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), hnp.array_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    )
)
def test_any_array_is_read_or_refused(array):
    try:
        image = open_image(array)
    except ImageError:
        return
    assert (image.mode, image.size) == ("RGB", (array.shape[1], array.shape[0]))
