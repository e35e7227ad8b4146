import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from captioner.errors import ImageError
from captioner.images import find_images, open_image

EXAMPLES = Path(__file__).parents[1] / "examples"


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


def difference(image: Image.Image, expected: Image.Image) -> float:
    assert image.mode == expected.mode == "RGB"
    assert image.size == expected.size
    return float(np.abs(np.asarray(image, np.float64) - np.asarray(expected, np.float64)).mean())


# ---- what can be read


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("PPM", {}, 0),
        ("QOI", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95}, 6),
        ("JPEG", {"quality": 95, "progressive": True}, 6),
        ("MPO", {"quality": 95}, 6),
        ("WEBP", {"quality": 95}, 6),
        ("AVIF", {"quality": 95}, 6),
        ("JPEG2000", {}, 6),
    ],
)
def test_photo_formats_give_the_picture_from_path_and_bytes_whatever_the_extension(
    tmp_path, format, options, tolerance
):
    data = encode(picture(), format, **options)
    path = tmp_path / "wrong.xyz"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        assert difference(open_image(source), picture()) <= tolerance


def test_a_png_named_jpg_is_read(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(picture(), "PNG"))
    assert difference(open_image(path), picture()) == 0


def test_a_bytes_path_like_is_read(tmp_path):
    class BytesPath:
        def __fspath__(self) -> bytes:
            return os.fsencode(tmp_path / "photo.png")

    picture().save(tmp_path / "photo.png")
    assert difference(open_image(BytesPath()), picture()) == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    ("data", "readable"), [(encode(picture(), "PNG"), True), (b"no image at all", False)]
)
def test_a_pipe_is_read(tmp_path, data, readable):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    if readable:
        assert difference(open_image(pipe), picture()) == 0
    else:
        with pytest.raises(ImageError, match="not an image"):
            open_image(pipe)
    writer.join()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "tolerance"),
    [("JPEG", 6), ("PNG", 0), ("TIFF", 0), ("WEBP", 8), ("AVIF", 6), ("MPO", 6)],
)
def test_exif_orientation_is_applied_once_and_then_gone(format, tolerance, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = picture()
    plain.info["exif"] = exif.tobytes()
    data = encode(picture(), format, exif=plain.info["exif"], quality=95)
    expected = ImageOps.exif_transpose(plain)

    image = open_image(data)

    assert difference(image, expected) <= tolerance
    assert 0x0112 not in image.getexif()
    assert difference(open_image(image), image) == 0
    assert difference(open_image(Image.open(io.BytesIO(data))), image) == 0


def test_damaged_or_senseless_exif_does_not_make_an_image_unreadable():
    for exif in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b"\xff" * 40):
        open_image(encode(picture(), "JPEG", exif=exif))
    exif = Image.Exif()
    exif[0x0112] = 77
    assert difference(open_image(encode(picture(), "PNG", exif=exif)), picture()) == 0


def test_gray_and_black_and_white_become_rgb():
    gray = picture().convert("L")
    assert difference(open_image(encode(gray, "PNG")), Image.merge("RGB", [gray] * 3)) == 0
    assert (
        difference(open_image(encode(gray, "JPEG", quality=95)), Image.merge("RGB", [gray] * 3)) < 2
    )
    bilevel = gray.point(lambda value: 255 * (value > 128)).convert("1")
    assert difference(open_image(encode(bilevel, "PNG")), bilevel.convert("RGB")) == 0


def test_palettes_become_their_colours_and_transparent_ones_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putpixel((1, 0), 1)
    assert np.asarray(open_image(encode(palette, "PNG"))).tolist() == [
        [[10, 20, 30], [200, 100, 0]]
    ]
    assert np.asarray(open_image(encode(palette, "GIF"))).tolist() == [
        [[10, 20, 30], [200, 100, 0]]
    ]
    for transparency in (0, b"\x00\xff"):
        data = encode(palette, "PNG", transparency=transparency)
        assert np.asarray(open_image(data)).tolist() == [[[255, 255, 255], [200, 100, 0]]]
    assert np.asarray(open_image(encode(palette, "GIF", transparency=1))).tolist() == [
        [[10, 20, 30], [255, 255, 255]]
    ]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(format, mode):
    alpha = Image.linear_gradient("L").resize(picture().size)
    image = picture().convert("RGB" if mode == "RGBA" else "L").convert(mode)
    image.putalpha(alpha)
    colours, share = (
        np.asarray(image.convert("RGB"), np.float64),
        np.asarray(alpha, np.float64)[..., None] / 255,
    )
    expected = colours * share + 255 * (1 - share)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    result = np.asarray(open_image(encode(image, format, **options)), np.float64)
    assert np.abs(result - expected).max() <= 1


@pytest.mark.parametrize(
    "mode", ["RGBa", "La", "PA", "RGBX", "YCbCr", "HSV", "CMYK", "I;16B", "1", "P"]
)
def test_pil_images_of_rare_modes_are_read(mode):
    if mode in ("La", "PA"):
        source = picture().convert("L").convert("LA").convert(mode)
    elif mode == "I;16B":
        source = Image.frombytes("I;16B", (2, 1), b"\x00\x00\xff\xff")
    else:
        source = (
            picture().convert("RGBA").convert(mode) if mode == "RGBa" else picture().convert(mode)
        )
    image = open_image(source)
    assert (image.mode, image.size) == ("RGB", source.size)
    if mode in ("RGBX", "YCbCr", "HSV", "CMYK", "RGBa"):
        assert difference(image, picture()) < 6


def test_transparent_colour_of_rgb_and_gray_pngs_is_white():
    rgb = Image.new("RGB", (2, 1), (10, 20, 30))
    rgb.putpixel((1, 0), (1, 2, 3))
    data = encode(rgb, "PNG", transparency=(1, 2, 3))
    assert np.asarray(open_image(data)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    gray = rgb.convert("L")
    data = encode(gray, "PNG", transparency=gray.getpixel((0, 0)))
    assert np.asarray(open_image(data))[0, 0].tolist() == [255, 255, 255]


def png(bits: int, colours: int, rows: list[list[int]], transparent: list[int]) -> bytes:
    """A PNG of colour type 0 (gray) or 2 (RGB) with a transparent colour, by the specification."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    width = len(rows[0]) // (3 if colours == 2 else 1)
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colours, 0, 0, 0)
    lines = ("".join(f"{value:0{bits}b}" for value in row) for row in rows)
    data = b"".join(b"\0" + int(line, 2).to_bytes(len(line) // 8, "big") for line in lines)
    content = chunk(b"IHDR", head) + chunk(
        b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)
    )
    return (
        b"\x89PNG\r\n\x1a\n" + content + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("bits", "colours", "row", "transparent", "expected"),
    [
        (1, 0, [1, 0] * 4, [1], [255, 0] * 4),
        (1, 0, [1, 0] * 4, [0], [255, 255] * 4),
        (2, 0, [0, 1, 2, 3], [1], [0, 255, 170, 255]),
        (4, 0, [0, 1, 2, 15], [2], [0, 17, 255, 255]),
        (8, 0, [0, 1, 2, 200], [2], [0, 1, 255, 200]),
        (16, 0, [0, 257, 25700, 65535], [257], [0, 255, 100, 255]),
    ],
)
def test_the_transparent_gray_of_a_png_in_any_bits_is_white(
    bits, colours, row, transparent, expected
):
    image = open_image(png(bits, colours, [row, row], transparent))
    assert np.asarray(image)[..., 0].tolist() == [expected, expected]


def test_the_transparent_colour_of_a_png_in_16_bits_is_white():
    image = open_image(png(16, 2, [[257, 514, 771, 25700, 0, 65535]], [257, 514, 771]))
    assert np.asarray(image).tolist() == [[[255, 255, 255], [100, 0, 255]]]


@pytest.mark.parametrize(
    ("bits", "white", "expected"), [(16, 0, [255, 155, 0]), (16, 1, [0, 100, 255]), (12, 1, None)]
)
def test_gray_tiffs_of_more_bits_have_their_black_and_white(bits, white, expected):
    """TIFF 6.0: PhotometricInterpretation 0 means that white is zero."""
    if bits == 16:
        gray = Image.fromarray(np.array([[0, 25700, 65535]], np.uint16))
        data = encode(gray, "TIFF", tiffinfo={262: white})
    else:  # two values in three bytes
        pixels, expected = bytes.fromhex("000 640 fff fff".replace(" ", "")), [0, 100, 255, 255]
        tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 110), (278, 1), (279, 6)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels
    assert np.asarray(open_image(data))[0, :, 0].tolist() == expected


def test_cmyk_jpeg_shows_its_colours():
    image = open_image(encode(picture().convert("CMYK"), "JPEG", quality=95))
    assert difference(image, picture()) < 6


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_are_scaled_and_not_clipped(format):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = open_image(encode(Image.fromarray(values * 257), format))
    assert np.array_equal(np.asarray(image), np.repeat(values[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 257 * 100, 65535]], np.int32), [0, 100, 255]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
        (np.array([[0, 2**30, 2**31 - 1]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 200]], np.float32), [0, 100, 200]),
        (np.array([[0, 25700, 65535]], np.float32), [0, 100, 255]),
        (np.array([[-3e38, 0, 3e38]], np.float32), [0, 128, 255]),
        (np.array([[-5, -5, -5]], np.float32), [0, 0, 0]),
    ],
)
def test_32_bit_images_are_scaled_by_the_range_that_holds_them(values, expected):
    for source in (Image.fromarray(values), encode(Image.fromarray(values), "TIFF")):
        assert np.asarray(open_image(source))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_float_image_with_nan_is_refused(bad):
    with pytest.raises(ImageError, match="NaN"):
        open_image(Image.fromarray(np.array([[0, bad]], np.float32)))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_the_first_frame_of_several_is_taken(format):
    frames = [
        Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    ]
    image = open_image(encode(frames[0], format, save_all=True, append_images=frames[1:]))
    assert difference(image, frames[0]) < 4


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF"])
def test_one_pixel_is_an_image(format):
    assert open_image(encode(Image.new("RGB", (1, 1), "red"), format), min_size=224).size == (1, 1)


# ---- a reduced scale


def test_min_size_reduces_large_jpegs_and_never_below_twice_of_it():
    data = encode(picture(1600, 1000), "JPEG", quality=95)
    assert open_image(data).size == (1600, 1000)
    for min_size in (1, 31, 62, 63, 125, 126, 224, 251, 499, 500, 501, 5000):
        image = open_image(data, min_size=min_size)
        assert min(image.size) >= min(2 * min_size, 1000)
        assert difference(image, picture(1600, 1000).resize(image.size, Image.Resampling.BOX)) < 4
    assert open_image(data, min_size=62).size == (200, 125)


def test_min_size_changes_nothing_for_small_jpegs_and_other_formats():
    for format in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        width = 700 if format == "JPEG" else 2000
        data = encode(picture(width, 500), format)
        assert difference(open_image(data, min_size=224), open_image(data)) == 0


def test_min_size_works_with_orientation_gray_cmyk_and_mpo():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encode(picture(1600, 1000), "JPEG", exif=exif), min_size=60).size == (
        125,
        200,
    )
    assert open_image(encode(picture(1600, 1000), "MPO"), min_size=60).size == (200, 125)
    for mode in ("L", "CMYK"):
        assert open_image(encode(picture(1600, 1000).convert(mode), "JPEG"), min_size=60).size == (
            200,
            125,
        )


# ---- PIL images and arrays


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_the_users_image_is_neither_changed_nor_shared(mode):
    source = picture().convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    source.info.update(exif=exif.tobytes(), dpi=(72, 72))
    before = (source.mode, source.size, source.tobytes(), dict(source.info))
    image = open_image(source, min_size=1)
    image.paste((1, 2, 3), (0, 0, *image.size))
    assert (source.mode, source.size, source.tobytes(), dict(source.info)) == before
    assert image.size == source.size[::-1]


def test_a_lazy_jpeg_of_the_user_keeps_its_size():
    source = Image.open(io.BytesIO(encode(picture(1600, 1000), "JPEG")))
    assert open_image(source, min_size=20).size == source.size == (1600, 1000)


def test_an_rgb_image_without_metadata_comes_back_equal_but_new():
    source = picture()
    image = open_image(source)
    assert image is not source
    assert difference(image, source) == 0


def test_a_closed_or_damaged_lazy_image_is_refused():
    closed = Image.open(io.BytesIO(encode(picture(), "PNG")))
    closed.close()
    cut = Image.open(io.BytesIO(encode(Image.effect_noise((64, 64), 100), "PNG")[:1500]))
    for source in (closed, cut):
        with pytest.raises(ImageError, match="cannot be decoded"):
            open_image(source)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ImageError, match="has no pixels"):
        open_image(Image.new("RGB", (0, 5)))


# ---- the shipped photos


def test_the_example_photos_are_small_named_with_their_licence_and_can_be_opened():
    photos = list(find_images(EXAMPLES))
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(photos) >= 2
    for photo in photos:
        assert photo.stat().st_size < 150_000
        assert f"`{photo.name}`" in readme
        assert min(open_image(photo).size) >= 224
