import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.errors import ConfigError, ImageError
from captioner.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def torchvision_transform(preprocessing: Preprocessing):
    transforms = pytest.importorskip("torchvision.transforms")
    size = preprocessing.size
    return transforms.Compose(
        [
            transforms.Resize(
                (size, size) if preprocessing.resize == "squash" else size,
                transforms.InterpolationMode(preprocessing.interpolation),
            ),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    size=st.sampled_from([1, 2, 7, 32, 63, 224]),
    resize=st.sampled_from(["squash", "center_crop"]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    statistics=st.sampled_from(
        [(IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0, 0, 0), (1, 1, 1))]
    ),
)
def test_the_numbers_are_those_of_torchvision(
    width, height, size, resize, interpolation, statistics
):
    if max(width, height) > 32 * min(width, height):
        width = height
    image = noise(width, height, seed=width * height)
    preprocessing = Preprocessing(size, resize, interpolation, *statistics)
    result = preprocessing(image)
    assert result.dtype == np.float32
    assert result.shape == (3, size, size)
    assert result.flags.c_contiguous
    assert np.array_equal(result, torchvision_transform(preprocessing)(image).numpy())


def test_a_plain_colour_becomes_the_formula():
    result = Preprocessing(size=8)(Image.new("RGB", (30, 20), (255, 0, 51)))
    expected = (np.array([1, 0, 0.2]) - IMAGENET_MEAN) / IMAGENET_STD
    assert np.allclose(result, expected[:, None, None], atol=1e-6)


def test_squash_keeps_the_edges_and_center_crop_the_middle():
    image = Image.new("RGB", (400, 100), "black")
    image.paste("white", (0, 0, 150, 100))
    image.paste("white", (250, 0, 400, 100))
    squashed = np.asarray(Preprocessing(100, "squash").fit(image))
    cropped = np.asarray(Preprocessing(100, "center_crop").fit(image))
    assert squashed[:, 0].min() == 255
    assert squashed[:, 50].max() == 0
    assert cropped[:, 5:-5].max() == 0


@pytest.mark.parametrize("size", [(1, 5_000_000), (5_000_000, 1)])
@pytest.mark.parametrize("resize", ["squash", "center_crop"])
def test_a_long_strip_is_not_blown_up_beyond_the_memory(size, resize):
    result = Preprocessing(resize=resize)(Image.new("RGB", size, "white"))
    assert np.allclose(
        result, ((1 - np.array(IMAGENET_MEAN)) / IMAGENET_STD)[:, None, None], atol=1e-6
    )


def test_the_image_is_not_changed():
    image = noise(224, 224)
    before = image.tobytes()
    Preprocessing()(image)[:] = 0
    assert image.tobytes() == before


def test_normalize_takes_any_size():
    image = noise(5, 3)
    result = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)).normalize(image)
    assert result.shape == (3, 3, 5)
    assert np.array_equal(
        result, np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
    )


def test_only_rgb_is_taken():
    with pytest.raises(ImageError, match="mode L"):
        Preprocessing()(Image.new("L", (8, 8)))


def test_it_survives_json_and_pickle():
    preprocessing = Preprocessing(96, "center_crop", "bilinear", (0.5, 0.4, 0.3), (1, 2, 3))
    values = json.loads(json.dumps(preprocessing.to_dict()))
    assert values == {
        "size": 96,
        "resize": "center_crop",
        "interpolation": "bilinear",
        "mean": [0.5, 0.4, 0.3],
        "std": [1.0, 2.0, 3.0],
    }
    assert Preprocessing.from_dict(values) == preprocessing
    assert hash(Preprocessing.from_dict(values)) == hash(preprocessing)
    assert pickle.loads(pickle.dumps(preprocessing)) == preprocessing
    assert Preprocessing.from_dict({}) == Preprocessing()
    assert dataclasses.replace(preprocessing, size=1).size == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sise": 224}, "unknown keys: sise"),
        ({"size": "224"}, "preprocessing.size is '224'"),
        ({"size": 224.0}, "preprocessing.size is 224.0"),
        ({"size": True}, "preprocessing.size is True"),
        ({"size": 0}, "preprocessing.size is 0"),
        ({"size": None}, "preprocessing.size is None"),
        ({"resize": "crop"}, "expected one of squash, center_crop"),
        ({"resize": ["squash"]}, "expected one of squash, center_crop"),
        ({"interpolation": "nearest"}, "expected one of bilinear, bicubic"),
        ({"mean": 0.5}, "preprocessing.mean is 0.5"),
        ({"mean": [0.5, 0.5]}, "three numbers"),
        ({"mean": [0.5, 0.5, "0.5"]}, "three numbers"),
        ({"mean": [0.5, 0.5, float("nan")]}, "three numbers"),
        ({"mean": [0.5, 0.5, 10**400]}, "three numbers"),
        ({"std": "123"}, "three numbers"),
        ({"std": [0.2, 0.2, 0]}, "above 0"),
        ({"std": [0.2, 0.2, True]}, "three numbers"),
        ([("size", 224)], "expected names with values"),
        (None, "expected names with values"),
    ],
)
def test_wrong_values_are_refused_by_name(values, words):
    with pytest.raises(ConfigError) as caught:
        Preprocessing.from_dict(values)
    assert words in str(caught.value)
