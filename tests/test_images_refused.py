import gc
import io
import os
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.errors import ImageError
from captioner.images import MAX_PIXELS, open_image


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """A smooth colour picture in which no mirroring or rotation looks like another."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red, green = 255 * x / width, 255 * y / height
    blue = np.where((x < width / 3) & (y < height / 4), 255, 40)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header names any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def reason(source: object, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_files_that_are_no_images_say_why_and_which(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("This is a text, saved with the suffix of a photo.\n" * 50)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (tmp_path / "cut.jpg").write_bytes(encode(picture(200, 200), "JPEG")[:1500])
    (tmp_path / "drawing.eps").write_bytes(encode(picture(), "EPS"))
    expected = {
        "empty.jpg": "is empty",
        "text.jpg": "is not an image",
        "photo.heic": "HEIC",
        "cut.jpg": "cannot be decoded: damaged, truncated",
        "drawing.eps": "is not an image",
        "missing.jpg": "does not exist",
        ".": "is a folder",
        "empty.jpg/photo.jpg": "cannot be opened",
        "nul\0.jpg": "cannot be opened",
        "long" * 100: "cannot be opened",
    }
    for file, words in expected.items():
        with pytest.raises(ImageError, match=words) as caught:
            open_image(tmp_path / file)
        assert caught.value.name == str(tmp_path / file)
        assert str(caught.value).startswith(f"{tmp_path / file}: ")


def test_a_url_and_foreign_types_are_refused_with_what_to_do():
    assert "download" in reason("https://example.org/photo.jpg")
    for source in (None, 5, [1, 2], io.BytesIO(b"")):
        assert f"is of type {type(source).__name__}: expected a path" in reason(source)


def test_the_given_name_is_used():
    with pytest.raises(ImageError) as caught:
        open_image(b"", name="image 3 (bytes)")
    assert str(caught.value) == "image 3 (bytes): is empty"
    with pytest.raises(ImageError, match=r"^image \(bytes\): "):
        open_image(b"")
    with pytest.raises(ImageError, match=r"^image \(array\): "):
        open_image(np.zeros(3))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / "secret.jpg"
    picture().save(path)
    path.chmod(0)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)  # root may read everything
        assert "permission denied" in reason(path)
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("action", ["error", "ignore", "always"])
@pytest.mark.parametrize("size", [(11_000, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_whatever_the_warning_filters(action, size):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        assert (
            reason(png_claiming(*size))
            == f"has more than {MAX_PIXELS:,} pixels: scale it down first"
        )
    assert not caught


def test_the_limit_is_our_own_and_spares_the_users_setting(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "pixels" in reason(png_claiming(50_000, 50_000))
    assert "pixels" in reason(Image.open(io.BytesIO(png_claiming(50_000, 50_000))))
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_jpeg_above_the_limit_is_read_if_its_reduced_scale_is_below():
    data = encode(Image.new("L", (10_400, 10_000), 90), "JPEG")
    assert "pixels" in reason(data)
    assert open_image(data, min_size=224).size == (1300, 1250)


def test_warnings_as_errors_change_nothing():
    palette = picture().convert("P")
    sources = [
        encode(palette, "PNG", transparency=bytes(range(256))),
        encode(picture(), "JPEG", exif=b"Exif\0\0II*\0"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in sources:
            open_image(data)


def test_threads_leave_the_warning_filters_as_they_were():
    data = encode(picture(), "JPEG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert all(image.size == (48, 32) for image in pool.map(open_image, [data] * 400))
    assert warnings.filters == before


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_files_are_closed_after_success_and_failure(tmp_path):
    sources = {
        f"{format}.bin": encode(picture(), format)
        for format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF")
    }
    sources |= {
        "cut.bin": encode(picture(300, 300), "JPEG")[:900],
        "text.bin": b"text",
        "bomb.bin": png_claiming(20_000, 20_000),
    }
    for name, data in sources.items():
        (tmp_path / name).write_bytes(data)
    gc.disable()
    try:
        before = os.listdir("/proc/self/fd")
        kept = []
        for path in tmp_path.iterdir():
            try:
                kept.append(open_image(path))
            except ImageError as error:
                kept.append(error)
        assert os.listdir("/proc/self/fd") == before
    finally:
        gc.enable()


def test_results_and_errors_can_be_pickled():
    image = pickle.loads(pickle.dumps(open_image(encode(picture(), "PNG"))))
    assert image.tobytes() == picture().tobytes()
    with pytest.raises(ImageError) as caught:
        open_image(b"")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def assert_read_or_refused(data: bytes) -> None:
    try:
        image = open_image(data, min_size=8)
    except ImageError as error:
        assert error.reason
        return
    assert image.mode == "RGB"
    assert image.width * image.height > 0
    np.asarray(image)


SEEDS = [
    encode(
        picture(),
        "JPEG",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    ),
    encode(picture().convert("CMYK"), "JPEG", progressive=True),
    encode(picture(), "PNG"),
    encode(picture().convert("P"), "PNG", transparency=3),
    encode(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "PNG"),
    encode(picture(), "GIF", save_all=True, append_images=[picture().rotate(90)]),
    encode(picture(), "WEBP"),
    encode(picture(), "WEBP", save_all=True, append_images=[picture().rotate(90)]),
    encode(picture(), "TIFF"),
    encode(picture(), "TIFF", compression="tiff_lzw"),
    encode(picture(), "AVIF"),
    encode(picture(), "BMP"),
    encode(picture().convert("P"), "BMP"),
    encode(picture(), "PPM"),
    encode(picture(), "QOI"),
    encode(picture(), "JPEG2000"),
    encode(picture(), "MPO", save_all=True, append_images=[picture()]),
    b"P3 2 1 255 1 2 3 4 5 6",
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_corrupted_files_are_read_or_refused(seed, data):
    damaged = bytearray(seed)
    # The start of a file holds its structure: half of the changes go there.
    places = st.one_of(st.integers(0, min(80, len(seed) - 1)), st.integers(0, len(seed) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        damaged[place] = value
    end = data.draw(st.one_of(st.just(len(seed)), st.integers(0, len(seed))))
    assert_read_or_refused(bytes(damaged[:end]))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([seed[:16] for seed in SEEDS] + [b""]), st.binary(max_size=200))
def test_random_bytes_after_a_signature_are_read_or_refused(signature, rest):
    assert_read_or_refused(signature + rest)
