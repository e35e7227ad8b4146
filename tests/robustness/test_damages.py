"""Damages, held against what they are defined to be."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from captioner.errors import ConfigError, MissingExtraError
from captioner.robustness.damages import (
    DAMAGES,
    GROUPS,
    SIDE,
    damage,
    find_damages,
    fit,
    severities_of,
)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    random = np.random.default_rng(0)
    blobs = random.integers(40, 200, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize((96, 72), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def test_there_are_fifteen_corruptions_and_the_damages_of_real_photos() -> None:
    import imagecorruptions

    assert sorted(imagecorruptions.get_corruption_names()) == sorted(
        set(DAMAGES) - set(GROUPS["real"])
    )
    assert find_damages("all") == DAMAGES
    assert find_damages("crop, blur") == (*GROUPS["blur"], "crop")
    with pytest.raises(ConfigError, match="Unknown damage 'rain'"):
        find_damages("fog,rain")


@pytest.mark.parametrize("name", [name for name in DAMAGES if name != "glass_blur"])
def test_a_damage_depends_on_seed_and_photo_and_on_nothing_else(
    name: str, photo: Image.Image
) -> None:
    random_ones = {"gaussian_noise", "shot_noise", "impulse_noise", "snow", "fog", "night", "crop"}
    before = np.random.get_state()[1].tolist()
    first = [pixels(damage(photo, name, severity, key="1")) for severity in severities_of(name)]
    damage(photo, "snow", 1, key="1")
    for severity, image in zip(severities_of(name), first, strict=True):
        assert np.array_equal(pixels(damage(photo, name, severity, key="1")), image)
    assert np.random.get_state()[1].tolist() == before, "the global generator is as it was"
    if name in random_ones:
        assert not np.array_equal(pixels(damage(photo, name, 1, key="2")), first[0])
        assert not np.array_equal(pixels(damage(photo, name, 1, key="1", seed=1)), first[0])


@pytest.mark.slow  # it is compiled first
def test_glass_blur_is_repeatable(photo: Image.Image) -> None:
    first, again = (pixels(damage(photo, "glass_blur", 3, key="1")) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(pixels(damage(photo, "glass_blur", 3, key="2")), first)


def test_corruptions_are_as_strong_as_published() -> None:
    grey = Image.new("RGB", (128, 128), (128, 128, 128))
    for severity, deviation in zip(range(1, 4), (0.08, 0.12, 0.18), strict=True):
        noise = pixels(damage(grey, "gaussian_noise", severity, key="a")) / 255 - 128 / 255
        assert noise.std() == pytest.approx(deviation, rel=0.03)
    for severity, share in zip(range(1, 6), (0.03, 0.06, 0.09, 0.17, 0.27), strict=True):
        struck = pixels(damage(grey, "impulse_noise", severity, key="a"))
        assert np.isin(struck, (0, 255)).mean() == pytest.approx(share, abs=0.01)


def test_jpeg_and_contrast_are_what_pillow_and_arithmetic_make_of_them(photo: Image.Image) -> None:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=7)
    assert np.array_equal(
        pixels(damage(photo, "jpeg_compression", 5, key="a")), pixels(Image.open(file))
    )
    whole = pixels(photo)
    means = whole.mean(axis=(0, 1), keepdims=True)
    assert (
        np.abs(
            pixels(damage(photo, "contrast", 3, key="a")) - ((whole - means) * 0.2 + means)
        ).max()
        <= 1.0
    )


@pytest.mark.parametrize(("severity", "orientation"), [(1, 8), (2, 6), (3, 3)])
def test_rotation_is_a_photo_whose_exif_orientation_is_lost(
    severity: int, orientation: int, photo: Image.Image
) -> None:
    from PIL import ImageOps

    lost = damage(photo, "rotation", severity, key="a")
    lost.getexif()[0x0112] = orientation
    assert np.array_equal(pixels(ImageOps.exif_transpose(lost)), pixels(photo))
    assert severities_of("rotation") == (1, 2, 3)


def test_at_night_each_severity_halves_the_light() -> None:
    grey = Image.new("RGB", (200, 200), (220, 220, 220))
    light = [(pixels(damage(grey, "night", s, key="a")) / 255) ** 2.2 for s in range(1, 6)]
    means = np.array([each.mean() for each in light])
    assert means == pytest.approx((220 / 255) ** 2.2 / 2.0 ** np.arange(1, 6), rel=0.05)
    relative = np.array([each.std() for each in light]) / means
    assert (np.diff(relative) > 0).all(), "the darker, the noisier"


def test_a_screenshot_has_the_photo_between_black_bars(photo: Image.Image) -> None:
    for severity, ratio in zip(range(2, 6), (4 / 3, 16 / 9, 2.0, 19.5 / 9), strict=True):
        screen = pixels(damage(photo, "screenshot", severity, key="a"))
        height, width, _ = screen.shape
        assert height / width == pytest.approx(ratio, rel=0.02)
        top = (height - photo.height) // 2
        assert np.array_equal(screen[top : top + photo.height], pixels(photo))
        assert not screen[top + photo.height :].any()
        assert 0 < (screen[:top] > 0).mean() < 0.2, "the status bar"


def test_a_crop_is_a_window_of_the_photo(photo: Image.Image) -> None:
    whole = pixels(photo)
    for severity, share in zip(range(1, 6), (0.6, 0.4, 0.25, 0.15, 0.08), strict=True):
        part = pixels(damage(photo, "crop", severity, key="a"))
        assert part.shape[0] * part.shape[1] == pytest.approx(share * 96 * 72, rel=0.05)
        windows = np.lib.stride_tricks.sliding_window_view(whole, part.shape)
        assert (windows == part).all(axis=(-3, -2, -1)).any()


def test_photos_are_brought_to_one_size() -> None:
    sizes = {
        (640, 480): (341, 256),
        (100, 200): (100, 200),
        (10, 20): (32, 64),
        (256, 999): (256, 999),
    }
    for given, expected in sizes.items():
        assert fit(Image.new("RGB", given)).size == expected
    assert fit(Image.new("RGB", (1, 400))).size == (32, 12800)
    assert SIDE == 256


def test_without_its_package_it_is_told_what_to_install(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(MissingExtraError, match=r"captioner\[robustness\]"):
        find_damages("fog")
    assert find_damages("real") == GROUPS["real"]
    assert damage(photo, "night", 1, key="a").size == photo.size
