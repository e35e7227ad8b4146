"""Colour profiles, against the arithmetic of their standards and against LittleCMS."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from captioner.images import open_image

D50 = (0.9642, 1.0, 0.8249)
# ICC profiles hold primaries adapted to D50. Columns: red, green, blue; SMPTE EG 432-1 and Adobe
# RGB (1998).
DISPLAY_P3 = (
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
)
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.1, for a display."""
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79), **tags}
    table, body, place = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    illuminant = b"".join(number(value) for value in D50)
    head = (
        struct.pack(">I4sI", place + len(body), b"test", 0x02100000)
        + b"mntr"
        + space
        + b"XYZ "
        + bytes(12)
        + b"acsp"
    )
    head = head.ljust(64, b"\0") + struct.pack(">I", 0) + illuminant
    return head.ljust(128, b"\0") + table + body


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def rgb_profile(primaries: tuple[tuple[float, ...], ...], power: float) -> bytes:
    tags = {b"wtpt": b"XYZ " + bytes(4) + b"".join(number(value) for value in D50)}
    for name, column in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[name + b"XYZ"] = b"XYZ " + bytes(4) + b"".join(number(value) for value in column)
        tags[name + b"TRC"] = gamma(power)
    return profile(b"RGB ", tags)


def gray_profile(power: float) -> bytes:
    return profile(
        b"GRAY",
        {b"wtpt": b"XYZ " + bytes(4) + b"".join(number(v) for v in D50), b"kTRC": gamma(power)},
    )


def srgb_of(rgb: np.ndarray, primaries: tuple[tuple[float, ...], ...], power: float) -> np.ndarray:
    """What the numbers (..., 3) of a space are in sRGB (IEC 61966-2-1), clipped."""
    xyz = (rgb / 255) ** power @ np.array(primaries)
    linear = np.clip(xyz @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("primaries", "power"), [(DISPLAY_P3, 2.2), (ADOBE_RGB, 563 / 256), (ADOBE_RGB, 1.8)]
)
def test_wide_colours_become_those_of_srgb(format, primaries, power):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(
        Image.fromarray(colours()), format, icc_profile=rgb_profile(primaries, power), **options
    )
    expected = srgb_of(colours().astype(float), primaries, power)
    assert np.abs(np.asarray(open_image(data)) - expected).max() < 3
    assert np.abs(expected - colours()).max() > 20


def test_a_jpeg_and_its_pil_image_are_converted_alike():
    even = Image.new("RGB", (64, 48), (200, 60, 40))
    data = encode(even, "JPEG", quality=100, icc_profile=rgb_profile(DISPLAY_P3, 2.2))
    expected = srgb_of(np.array([200.0, 60, 40]), DISPLAY_P3, 2.2)
    for source in (data, Image.open(io.BytesIO(data))):
        assert np.abs(np.asarray(open_image(source, min_size=4)) - expected).max() < 4


def test_transparent_and_palette_images_are_converted_too():
    wide = rgb_profile(ADOBE_RGB, 2.2)
    expected = srgb_of(np.array([200.0, 60, 40]), ADOBE_RGB, 2.2)
    for image in (
        Image.new("RGBA", (4, 4), (200, 60, 40, 255)),
        Image.new("RGB", (4, 4), (200, 60, 40)).convert("P"),
    ):
        straight = np.asarray(image.convert("RGB"), float)[0, 0]
        result = np.asarray(open_image(encode(image, "PNG", icc_profile=wide)))[0, 0]
        assert np.abs(result - srgb_of(straight, ADOBE_RGB, 2.2)).max() < 3
    assert np.abs(expected - [200, 60, 40]).max() > 10


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_gray_of_another_gamma_is_converted(mode):
    values = np.arange(256, dtype=np.uint8)[None]
    image = Image.fromarray(values.astype(np.uint16) * 257 if mode == "I;16" else values)
    data = encode(
        image.convert("LA") if mode == "LA" else image, "PNG", icc_profile=gray_profile(1.5)
    )
    linear = (values[0] / 255) ** 1.5
    expected = 255 * np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    assert np.abs(np.asarray(open_image(data))[0, :, 0] - expected).max() < 3


def test_the_profile_of_srgb_changes_nothing_at_all():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    result = np.asarray(open_image(encode(Image.fromarray(colours()), "PNG", icc_profile=srgb)))
    assert np.array_equal(result, colours())


@pytest.mark.parametrize(
    "damaged",
    [
        b"no profile",
        rgb_profile(DISPLAY_P3, 2.2)[:200],
        bytes(300),
        gray_profile(1.0),
        b"\0" * 128 + b"acsp" * 20,
    ],
)
def test_a_damaged_profile_or_one_of_another_kind_is_ignored(damaged):
    result = np.asarray(open_image(encode(Image.fromarray(colours()), "PNG", icc_profile=damaged)))
    assert np.array_equal(result, colours())


def test_a_gray_photo_with_a_profile_of_colours_stays_gray():
    image = Image.fromarray(colours()[..., 0])
    result = np.asarray(open_image(encode(image, "PNG", icc_profile=rgb_profile(ADOBE_RGB, 1.8))))
    assert np.array_equal(result, np.asarray(image.convert("RGB")))


def test_a_profile_that_is_too_large_for_pillow_is_heeded():
    large = bytearray(rgb_profile(ADOBE_RGB, 1.8))
    large += bytes(2 * 2**20)
    large[:4] = struct.pack(">I", len(large))
    data = encode(Image.fromarray(colours()), "PNG", icc_profile=bytes(large))
    assert (
        np.abs(
            np.asarray(open_image(data)) - srgb_of(colours().astype(float), ADOBE_RGB, 1.8)
        ).max()
        < 3
    )
