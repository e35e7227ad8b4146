"""Valid images that exceed Pillow's limits, and images that are still rejected."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.errors import ImageError
from captioner.images import open_image

ROOT = Path(__file__).parents[1]


def picture(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red, green = 255 * x / width, 255 * y / height
    return Image.fromarray(np.stack([red, green, np.full_like(red, 40)], axis=-1).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, last: bool = False) -> bytes:
    """The picture's PNG with more chunks, behind its header or behind its pixels."""
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    data = buffer.getvalue()
    place = len(data) - 12 if last else 33
    return data[:place] + b"".join(chunks) + data[place:]


def text(size: int) -> bytes:
    return zlib.compress(bytes(size))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [2 * 2**20, 70 * 2**20])
@pytest.mark.parametrize(
    ("kind", "start"),
    [(b"zTXt", b"key\0\0"), (b"iTXt", b"key\0\1\0en\0key\0"), (b"iCCP", b"profile\0\0")],
)
def test_a_png_with_large_text_or_profile_is_read(kind, start, size, last):
    data = png(chunk(kind, start + text(size)), last=last)
    assert np.array_equal(np.asarray(open_image(data)), np.asarray(picture()))


def test_a_png_with_more_texts_than_pillow_takes_is_read():
    many = [chunk(b"zTXt", b"key%d\0\0" % n + text(2**20 - 10)) for n in range(70)]
    assert np.array_equal(np.asarray(open_image(png(*many))), np.asarray(picture()))
    plain = [chunk(b"tEXt", b"key%d\0" % n + b"a" * 2**20) for n in range(66)]
    assert np.array_equal(np.asarray(open_image(png(*plain))), np.asarray(picture()))


def test_a_large_text_leaves_the_small_ones_and_the_orientation():
    exif = Image.Exif()
    exif[0x0112] = 3
    raw = exif.tobytes().removeprefix(b"Exif\0\0")
    data = png(chunk(b"zTXt", b"key\0\0" + text(3 * 2**20)), chunk(b"eXIf", raw))
    expected = picture().transpose(Image.Transpose.ROTATE_180)
    assert np.array_equal(np.asarray(open_image(data)), np.asarray(expected))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_a_text_that_claims_megabytes_takes_no_memory(tmp_path):
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()
    for kind, start in (
        (b"zTXt", b"key\0\0"),
        (b"iCCP", b"profile\0\0"),
        (b"iTXt", b"key\0\1\0en\0key\0"),
    ):
        (tmp_path / f"{kind.decode()}.png").write_bytes(png(chunk(kind, start + packed)))
    assert peak_of_opening(*tmp_path.iterdir()) < 150


def peak_of_opening(*paths: Path, min_size: int | None = None) -> int:
    """The memory, in megabytes, that a process takes at most to open images."""
    code = (
        f"from captioner.images import open_image\nfor path in {[str(path) for path in paths]!r}:\n"
    )
    code += f"    open_image(path, min_size={min_size})\n"
    code += "print(int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]) // 1024)"
    return int(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    )


def claiming(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header names another size."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_a_photo_of_200_megapixels_is_read_in_little_memory(tmp_path):
    path = tmp_path / "200mp.jpg"
    Image.new("L", (16_320, 12_240), 90).save(path)
    assert open_image(path, min_size=224).size == (2040, 1530)
    assert peak_of_opening(path, min_size=224) < 200
    with pytest.raises(ImageError, match="pixels"):
        open_image(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_claims_gigapixels_is_refused(options):
    data = claiming(jpeg(picture(), **options), 65_500, 65_500)
    with pytest.raises(ImageError, match="pixels"):
        open_image(data, min_size=224)


def test_a_progressive_jpeg_that_would_be_held_as_a_whole_is_refused():
    with pytest.raises(ImageError, match="pixels"):
        open_image(
            claiming(jpeg(picture(), progressive=True) + bytes(2_000_000), 20_000, 20_000),
            min_size=224,
        )
    data = claiming(jpeg(picture()), 20_000, 20_000)
    with pytest.raises(ImageError, match="pixels"):  # too small a file for so many
        open_image(data, min_size=224)
    assert open_image(data + bytes(2_000_000), min_size=224).size == (2500, 2500)
    one_by_one = jpeg(picture())
    at = one_by_one.find(b"\xff\xda")
    one_by_one = (
        one_by_one[: at + 2] + b"\0\x08\x01\1\0\0\x3f\0" + one_by_one[at + 14 :] + bytes(2_000_000)
    )
    with pytest.raises(ImageError, match="pixels"):
        open_image(claiming(one_by_one, 20_000, 20_000), min_size=224)
