"""Formats that extras read: HEIC, JPEG XL, camera raw."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.errors import ImageError
from captioner.images import IMAGE_SUFFIXES, open_image

ROOT = Path(__file__).parents[1]


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """A smooth colour picture in which no mirroring or rotation looks like another."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red, green = 255 * x / width, 255 * y / height
    blue = np.where((x < width / 3) & (y < height / 4), 255, 40)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def difference(image: Image.Image, expected: Image.Image) -> float:
    assert (image.mode, image.size) == ("RGB", expected.size)
    return float(np.abs(np.asarray(image, np.float64) - np.asarray(expected, np.float64)).mean())


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
    return buffer.getvalue()


def jxl(image: Image.Image) -> bytes:
    pillow_jxl = pytest.importorskip("pillow_jxl")
    encoder = pillow_jxl.Encoder(mode="RGB", quality=95)
    return bytes(encoder(image.tobytes(), *image.size, jpeg_encode=False))


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def tiff(entries: dict[int, tuple[int, list[int]]], data: bytes = b"") -> bytes:
    """A TIFF of one directory, tag -> (type, values), little-endian; `data` begins at byte 4096."""
    codes = {1: "B", 2: "B", 3: "H", 4: "I", 10: "i"}
    table, extra, place = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{codes[kind]}", *values)
        count = len(values) // 2 if kind == 10 else len(values)
        if len(packed) > 4:
            table += struct.pack("<HHII", tag, kind, count, place + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        else:
            table += struct.pack("<HHI", tag, kind, count) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", 0) + extra
    return head.ljust(4096, b"\0") + data


def dng(width: int = 64, height: int = 48, value: int = 30_000) -> bytes:
    """A DNG of one even gray without a preview, as rawpy develops it (DNG specification 1.4)."""
    pixels = np.full((height, width), value, "<u2").tobytes()
    matrix = [10_000, 10_000, 0, 1, 0, 1, 0, 1, 10_000, 10_000, 0, 1, 0, 1, 0, 1, 10_000, 10_000]
    entries = {
        254: (4, [0]),
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [16]),
        259: (3, [1]),
        262: (3, [32803]),  # a colour filter array
        271: (2, list(b"Test\0")),
        272: (2, list(b"Test\0")),
        273: (4, [4096]),
        274: (3, [1]),
        277: (3, [1]),
        278: (4, [height]),
        279: (4, [len(pixels)]),
        284: (3, [1]),
        33421: (3, [2, 2]),
        33422: (1, [0, 1, 1, 2]),
        50706: (1, [1, 4, 0, 0]),
        50707: (1, [1, 1, 0, 0]),
        50708: (2, list(b"Test camera\0")),
        50714: (4, [0]),
        50717: (4, [65535]),
        50721: (10, matrix),
        50778: (3, [21]),
    }
    return tiff(entries, pixels)


def without(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the import of an installed package fail, as if it were not."""
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)


def reason(source: object) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(source)
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".hif", ".jpg"])
def test_a_heic_photo_is_read_whatever_it_is_called(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(heic(picture()))
    for source in (path, path.read_bytes()):
        assert difference(open_image(source, min_size=8), picture()) < 6


@pytest.mark.parametrize(
    "brands", [b"mif1mif1heic", b"mif1mif1miaf", b"msf1msf1miafhevc", b"heicmif1avif"]
)
def test_a_heic_photo_of_general_brands_is_one(monkeypatch, brands):
    without("pillow_heif", monkeypatch)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    box = struct.pack(">I", 12 + len(brands)) + b"ftyp" + brands[:4] + bytes(4) + brands[4:]
    assert "is a HEIC photo" in reason(box + bytes(100))


def test_a_heic_photo_that_is_held_upright_is_turned_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(heic(picture(), exif=exif.tobytes()))
    assert difference(image, picture().transpose(Image.Transpose.ROTATE_270)) < 6


def test_a_jpeg_xl_image_is_read(tmp_path):
    path = tmp_path / "photo.jxl"
    path.write_bytes(jxl(picture()))
    for source in (path, path.read_bytes()):
        assert difference(open_image(source), picture()) < 6


@pytest.mark.parametrize(
    ("size", "header"),
    [  # ISO/IEC 18181-1: small?, height, ratio, width; the lowest bit first
        ((32_000, 32_000), 0b001_000111110011111111_10_0),
        ((65_536, 20_000), None),
    ],
)
def test_a_jpeg_xl_bomb_is_refused_before_it_is_decoded(size, header):
    if header is None:
        width, height = size
        header, length = 0, 0
        for value, bits in ((0, 1), (2, 2), (height - 1, 18), (0, 3), (2, 2), (width - 1, 18)):
            header |= value << length
            length += bits
    data = b"\xff\x0a" + header.to_bytes(12, "little") + bytes(20)
    assert "pixels" in reason(data)
    box = struct.pack(">I", 8 + len(data)) + b"jxlc" + data
    assert "pixels" in reason(b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl " + box)


def test_an_avif_image_is_not_taken_for_a_heic_photo():
    buffer = io.BytesIO()
    picture().save(buffer, "AVIF", quality=95)
    assert difference(open_image(buffer.getvalue()), picture()) < 6


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("suffix", [".dng", ".NEF", ".arw"])
def test_the_largest_preview_of_a_raw_file_is_shown_upright(tmp_path, suffix, orientation):
    whole, small = picture(900, 600), Image.new("RGB", (450, 440), "red")
    entries = {
        254: (4, [1]),
        256: (4, [160]),
        257: (4, [120]),
        271: (2, list(b"Test\0")),
        274: (3, [orientation]),
    }
    sensor = np.random.default_rng(0).bytes(5000)
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(
        tiff(
            entries, sensor + jpeg(small) + sensor + jpeg(whole) + sensor + jpeg(picture(160, 120))
        )
    )
    turned = {1: None, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
    expected = whole if turned is None else whole.transpose(turned)
    assert difference(open_image(path), expected) < 6


@pytest.mark.parametrize(
    "start", [b"FUJIFILMCCD-RAW 0201FF", b"IIU\0", b"IIRO", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"]
)
def test_raw_files_that_are_no_tiff_show_their_preview(start):
    data = start.ljust(300, b"\0") + jpeg(picture(900, 600)) + bytes(300)
    assert difference(open_image(data), picture(900, 600)) < 6


def test_a_raw_file_without_a_preview_is_developed():
    pytest.importorskip("rawpy")
    image = open_image(dng())
    assert image.size == (32, 24)
    assert (
        np.ptp(np.asarray(image)[4:-4, 4:-4].astype(int).reshape(-1, 3), axis=0).max() <= 8
    )  # even, as it is
    assert np.asarray(image).mean() > 60


def test_what_is_wrong_with_a_raw_file_is_said_as_text(tmp_path):
    pytest.importorskip("rawpy")
    path = tmp_path / "photo.nef"
    path.write_bytes(b"II*\0" + bytes(2000))
    assert "(Unsupported file format or not RAW file)" in reason(path)


@pytest.mark.parametrize(
    ("module", "extra", "make"),
    [
        ("pillow_heif", "heic", lambda: heic(picture())),
        ("pillow_jxl", "jxl", lambda: jxl(picture())),
        ("rawpy", "raw", dng),
    ],
)
def test_without_the_package_a_photo_is_named_with_what_to_install(
    monkeypatch, module, extra, make
):
    data = make()
    format = {"heic": "HEIF", "jxl": "JXL"}.get(extra, "")
    monkeypatch.delitem(Image.OPEN, format, raising=False)
    without(module, monkeypatch)
    assert f"pip install 'captioner[{extra}]'" in reason(data)
    assert {"heic": "HEIC", "jxl": "JPEG XL", "raw": "raw"}[extra] in reason(data)


@pytest.mark.parametrize("make", [lambda: heic(picture()), lambda: jxl(picture()), dng])
def test_damaged_ones_are_refused_as_what_they_are(make):
    data = make()
    for end in (70, len(data) // 2):
        assert "damaged" in reason(data[:end]) or "not installed" in reason(data[:end])


def test_a_folder_of_such_photos_is_never_empty():
    assert {
        ".heic",
        ".heif",
        ".hif",
        ".avif",
        ".jxl",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".raf",
        ".rw2",
        ".orf",
    } <= (IMAGE_SUFFIXES)


def test_opening_a_common_photo_imports_no_such_package():
    photo = str(ROOT / "examples" / "cat.jpg")
    code = (
        f"import sys; from captioner.images import open_image; open_image({photo!r});"
        " print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not {"pillow_heif", "pillow_jxl", "rawpy", "PIL.ImageCms", "PIL.TiffImagePlugin"} & set(
        modules.split()
    )
