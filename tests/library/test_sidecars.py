"""Captions beside and inside photos, read back by exiv2 and ExifTool."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from captioner.caption import Caption
from captioner.errors import DataError
from captioner.library.sidecars import Photos, Rules, Sidecars
from captioner.library.xmp import Packet
from captioner.tags import Tag

pytest.importorskip("lxml")
exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="no ExifTool here")
exiv2 = pytest.mark.skipif(shutil.which("exiv2") is None, reason="no exiv2 here")

# As digiKam, darktable and Lightroom leave one: comments, prefixes of others, two descriptions, a
# caption in another language alone, text with entities, and an attribute with a new line.
RICH = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<!-- kept -->
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/" xmlns:d="http://purl.org/dc/elements/1.1/"
    xmp:Rating="4" darktable:params="gz12eJxjYGBgAAAABAAB&#10;x">
   <darktable:history><rdf:Seq><rdf:li
     darktable:num="0" darktable:operation="exposure"/></rdf:Seq></darktable:history>
   <d:subject><rdf:Bag><rdf:li>Oma &amp; Opa</rdf:li><rdf:li>dog</rdf:li></rdf:Bag></d:subject>
  </rdf:Description>
  <rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Make="Acme">
   {caption}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
PERSONS = (
    '<d:description xmlns:d="http://purl.org/dc/elements/1.1/"><rdf:Alt>'
    '<rdf:li xml:lang="x-default">Our dog</rdf:li><rdf:li xml:lang="de">Unser Hund</rdf:li>'
    "</rdf:Alt></d:description>"
)


def caption(text: str = "a dog & a <cat>", *nouns: str) -> Caption:
    tags = tuple(Tag(noun, 0.9) for noun in nouns)
    return Caption(text, tuple(text.split()), -1.0, (-1.0,), tags=tags)


@pytest.fixture
def photo(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    picture(1).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def sidecar(photo: Path) -> Path:
    return photo.with_name(f"{photo.name}.xmp")


def by_exiftool(path: Path) -> dict[str, object]:
    """All XMP of a file, but what ExifTool says of itself."""
    command = ["exiftool", "-j", "-struct", "-XMP:all", str(path)]
    (found,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {key: found[key] for key in found if key not in ("SourceFile", "XMPToolkit")}


def by_exiv2(path: Path) -> str:
    command = ["exiv2", "-px", str(path)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@exiv2
@exiftool
def test_a_new_sidecar_is_read_by_others(photo: Path) -> None:
    Sidecars(Rules("1", tags=True)).save(
        str(photo), caption("a dog & a <cat>", "dog", "traffic light")
    )
    found = by_exiftool(sidecar(photo))
    assert found["Description"] == "a dog & a <cat>"
    assert found["Description-en"] == "a dog & a <cat>"
    assert found["Subject"] == ["dog", "traffic light"]
    lines = by_exiv2(sidecar(photo))
    assert 'lang="x-default" a dog & a <cat>, lang="en" a dog & a <cat>' in lines
    assert "dog, traffic light" in lines


@exiftool
def test_everything_else_in_a_sidecar_stays(photo: Path) -> None:
    sidecar(photo).write_text(RICH.format(caption=""), encoding="utf-8")
    before = by_exiftool(sidecar(photo))
    Sidecars(Rules("1", tags=True)).save(str(photo), caption("a cat", "dog", "cat"))
    after = by_exiftool(sidecar(photo))
    assert (after.pop("Description"), after.pop("Description-en")) == ("a cat", "a cat")
    assert after.pop("Subject") == ["Oma & Opa", "dog", "cat"]
    before.pop("Subject")
    ours = {key for key in after if key not in before}
    assert {key: after[key] for key in before} == before
    assert ours == {"Caption", "Run", "Tags"}
    text = sidecar(photo).read_text(encoding="utf-8")
    for part in ("<!-- kept -->", '<?xpacket end="w"?>', 'id="W5M0MpCehiHzreSzNTczkc9d"'):
        assert part in text
    assert 'darktable:params="gz12eJxjYGBgAAAABAAB&#10;x"' in text
    assert 'darktable:operation="exposure"' in text


@pytest.mark.parametrize("stem", [False, True])
def test_a_second_run_does_nothing(photo: Path, stem: bool) -> None:
    store = Sidecars(Rules("1", tags=True, by_stem=stem))
    assert not store.holds(str(photo))
    store.save(str(photo), caption("a cat", "cat"))
    path = photo.with_suffix(".xmp") if stem else sidecar(photo)
    before = path.read_bytes()
    assert store.holds(str(photo))
    store.save(str(photo), caption("another"))
    assert path.read_bytes() == before
    assert sorted(photo.parent.iterdir()) == sorted([photo, path])
    assert Sidecars(Rules("1", tags=True, by_stem=stem, replace=True)).holds(str(photo))


def test_another_model_replaces_our_captions_and_tags_alone(photo: Path) -> None:
    Sidecars(Rules("1", tags=True)).save(str(photo), caption("a cat", "cat", "ball"))
    packet = Packet(sidecar(photo).read_bytes())
    packet.change_keywords((), ["holiday"])
    sidecar(photo).write_bytes(packet.to_bytes())
    store = Sidecars(Rules("2", tags=True))
    assert not store.holds(str(photo))
    store.save(str(photo), caption("a dog", "ball", "dog"))
    packet = Packet(sidecar(photo).read_bytes())
    assert packet.captions == {"x-default": "a dog", "en": "a dog"}
    assert set(packet.keywords) == {"ball", "dog", "holiday"}


def test_a_persons_caption_is_kept_until_its_replacement_is_asked_for(photo: Path) -> None:
    sidecar(photo).write_text(RICH.format(caption=PERSONS), encoding="utf-8")
    before = sidecar(photo).read_bytes()
    assert Sidecars(Rules("1")).holds(str(photo))
    Sidecars(Rules("1")).save(str(photo), caption())
    assert sidecar(photo).read_bytes() == before
    Sidecars(Rules("1", tags=True)).save(str(photo), caption("a cat", "cat"))
    packet = Packet(sidecar(photo).read_bytes())
    assert packet.captions == {"x-default": "Our dog", "de": "Unser Hund"}
    assert packet.keywords == ("Oma & Opa", "dog", "cat")
    Sidecars(Rules("1", replace=True)).save(str(photo), caption("a cat"))
    packet = Packet(sidecar(photo).read_bytes())
    assert packet.captions == {"x-default": "a cat", "en": "a cat", "de": "Unser Hund"}


@exiftool
def test_ours_that_a_person_has_corrected_is_a_persons(photo: Path) -> None:
    Sidecars(Rules("1")).save(str(photo), caption("a cat"))
    command = ["exiftool", "-XMP-dc:Description=my cat", str(sidecar(photo))]
    subprocess.run(command, check=True, capture_output=True)
    assert Sidecars(Rules("2")).holds(str(photo))
    assert not Sidecars(Rules("2", replace=True)).holds(str(photo))


@exiv2
def test_our_mark_outlives_other_software(photo: Path) -> None:
    Sidecars(Rules("1", tags=True)).save(str(photo), caption("a cat", "cat"))
    mark = Packet(sidecar(photo).read_bytes()).mark
    command = ["exiv2", "-M", "set Xmp.xmp.Rating 5", str(sidecar(photo))]
    subprocess.run(command, check=True, capture_output=True)
    packet = Packet(sidecar(photo).read_bytes())
    assert 'Rating="5"' in sidecar(photo).read_text()
    assert packet.mark == mark and packet.has_own_caption


def embed_nothing(path: Path) -> None:
    pass


def embed_exif(path: Path) -> None:
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x010E] = "Our dog"
        image.save(path, exif=exif)


def embed_placeholder(path: Path) -> None:
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x010E] = "OLYMPUS DIGITAL CAMERA         "
        image.save(path, exif=exif)


def embed_xmp(path: Path) -> None:
    with Image.open(path) as image:
        image.save(path, xmp=RICH.format(caption=PERSONS).encode())


def embed_png(path: Path) -> None:
    with Image.open(path) as image:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", RICH.format(caption=PERSONS))
        image.save(path, "PNG", pnginfo=info)


def embed_png_with_long_text(path: Path) -> None:
    """Pillow alone rejects the photo: its text has more than a megabyte."""
    with Image.open(path) as image:
        info = PngImagePlugin.PngInfo()
        info.add_text("workflow", "a" * 2_000_000, zip=True)
        info.add_itxt("XML:com.adobe.xmp", RICH.format(caption=PERSONS))
        image.save(path, "PNG", pnginfo=info)


def embed_in_a_panorama(path: Path) -> None:
    """Pillow alone rejects the photo: it states more than 179 megapixels."""
    embed_xmp(path)
    jpeg = bytearray(path.read_bytes())
    sizes = jpeg.index(b"\xff\xc0") + 5  # after the marker, the length and the precision
    jpeg[sizes : sizes + 4] = (10_000).to_bytes(2, "big") + (20_000).to_bytes(2, "big")
    path.write_bytes(jpeg)


def embed_beside_damaged_iptc(path: Path) -> None:
    embed_xmp(path)
    entry = b"\x1c\x02\x78\0"  # cut within the length of its text
    resource = b"8BIM\x04\x04\0\0" + len(entry).to_bytes(4, "big") + entry
    segment = b"Photoshop 3.0\0" + resource
    jpeg = path.read_bytes()
    marker = b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big")
    path.write_bytes(jpeg[:2] + marker + segment + jpeg[2:])


def embed_iptc(path: Path) -> None:
    command = ["exiftool", "-IPTC:Caption-Abstract=Our dog", str(path)]
    subprocess.run(command, check=True, capture_output=True)


def embed_heic(path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    with Image.open(path) as image:
        heif = pillow_heif.from_pillow(image)
    heif.save(path, xmp=RICH.format(caption=PERSONS).encode())


def embed_jxl(path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    with Image.open(path) as image:
        copy = image.copy()
    jxl = path.with_suffix(".jxl")
    copy.save(jxl)
    command = ["exiftool", "-m", "-XMP-dc:Description=Our dog", str(jxl)]
    subprocess.run(command, check=True, capture_output=True)
    jxl.replace(path)


def embed_in(suffix: str, tag: str) -> Callable[[Path], None]:
    """Turn the photo into another format, with a caption that ExifTool writes."""

    def embed(path: Path) -> None:
        other = path.with_suffix(suffix)
        with Image.open(path) as image:
            image.save(other)
        command = ["exiftool", f"-{tag}=Our dog", str(other)]
        subprocess.run(command, check=True, capture_output=True)
        other.replace(path)

    return embed


@pytest.mark.parametrize(
    ("embed", "kept"),
    [
        (embed_nothing, False),
        (embed_placeholder, False),
        (embed_exif, True),
        (embed_xmp, True),
        (embed_png, True),
        (embed_png_with_long_text, True),
        (embed_in_a_panorama, True),
        (embed_beside_damaged_iptc, True),
        (embed_heic, True),
        pytest.param(embed_jxl, True, marks=exiftool),
        pytest.param(embed_iptc, True, marks=exiftool),
        pytest.param(embed_in(".gif", "XMP-dc:Description"), True, marks=exiftool),
        pytest.param(embed_in(".jp2", "XMP-dc:Description"), True, marks=exiftool),
        pytest.param(embed_in(".jp2", "IFD0:ImageDescription"), True, marks=exiftool),
        pytest.param(embed_in(".jp2", "IPTC:Caption-Abstract"), True, marks=exiftool),
        pytest.param(embed_in(".jp2", "XMP-dc:Title"), False, marks=exiftool),
    ],
)
def test_a_persons_caption_inside_the_photo_is_kept(
    photo: Path, embed: Callable[[Path], None], kept: bool
) -> None:
    embed(photo)
    assert Sidecars(Rules("1")).holds(str(photo)) == kept
    assert not Sidecars(Rules("1", replace=True)).holds(str(photo))


def test_a_persons_caption_in_a_sidecar_of_the_other_name_is_kept(photo: Path) -> None:
    photo.with_suffix(".xmp").write_text(RICH.format(caption=PERSONS), encoding="utf-8")
    assert Sidecars(Rules("1")).holds(str(photo))


def test_a_damaged_sidecar_of_the_other_name_is_named(photo: Path) -> None:
    other = photo.with_suffix(".xmp")
    other.write_text(RICH[:500], encoding="utf-8")
    store = Sidecars(Rules("1"))
    assert not store.holds(str(photo))
    with pytest.raises(DataError, match=f"its sidecar {other} is damaged"):
        store.save(str(photo), caption())
    assert not sidecar(photo).exists()
    Sidecars(Rules("1", replace=True)).save(str(photo), caption())
    assert Packet(sidecar(photo).read_bytes()).has_own_caption
    assert other.read_text(encoding="utf-8") == RICH[:500]


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><x:xmpmeta'
    ' xmlns:x="adobe:ns:meta/">&b;</x:xmpmeta>'
)


@pytest.mark.parametrize("content", ["", "no XML", "<a/>", RICH[:500], BOMB])
def test_a_damaged_sidecar_is_named_and_left_as_it_is(photo: Path, content: str) -> None:
    sidecar(photo).write_text(content, encoding="utf-8")
    store = Sidecars(Rules("1"))
    assert not store.holds(str(photo))
    with pytest.raises(DataError, match=r"photo\.jpg\.xmp .* left unchanged"):
        store.save(str(photo), caption())
    assert sidecar(photo).read_text(encoding="utf-8") == content


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_sidecars_in_other_encodings_are_read(photo: Path, encoding: str) -> None:
    text = RICH.format(caption=PERSONS).replace("\ufeff", "").replace("Our dog", "Ünser Hund")
    sidecar(photo).write_bytes(text.encode(encoding))
    Sidecars(Rules("1", tags=True)).save(str(photo), caption("a", "cat"))
    packet = Packet(sidecar(photo).read_bytes())
    assert packet.captions["x-default"] == "Ünser Hund" and packet.mark.tags == ("cat",)


@exiftool
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_embedding_keeps_a_copy_and_is_read_by_others(
    tmp_path: Path, picture: Callable[[int], Image.Image], suffix: str
) -> None:
    photo = tmp_path / f"-Ä{suffix}"
    picture(1).save(photo)
    before = photo.read_bytes()
    pixels = Image.open(photo).tobytes()
    store = Photos(Rules("1", tags=True))
    assert not store.holds(str(photo))
    store.save(str(photo), caption("a cat", "cat", "ball"))
    assert store.holds(str(photo))
    assert photo.with_name(f"{photo.name}_original").read_bytes() == before
    assert Image.open(photo).tobytes() == pixels
    found = by_exiftool(photo)
    assert (found["Description"], found["Description-en"]) == ("a cat", "a cat")
    assert found["Subject"] == ["cat", "ball"]
    Photos(Rules("2", tags=True)).save(str(photo), caption("a dog", "ball", "dog"))
    found = by_exiftool(photo)
    assert found["Description"] == "a dog" and set(found["Subject"]) == {"ball", "dog"}
    assert photo.with_name(f"{photo.name}_original").read_bytes() == before, "the first one is kept"
    assert Photos(Rules("2", tags=True)).holds(str(photo))


@exiftool
@pytest.mark.parametrize("suffix", [".gif", ".jp2"])
def test_embedding_into_formats_of_archives_is_done_once(
    tmp_path: Path, picture: Callable[[int], Image.Image], suffix: str
) -> None:
    photo = tmp_path / f"photo{suffix}"
    picture(1).save(photo)
    Photos(Rules("1")).save(str(photo), caption("a cat"))
    assert by_exiftool(photo)["Description"] == "a cat"
    assert Photos(Rules("1")).holds(str(photo))
    assert not Photos(Rules("2")).holds(str(photo)), "another model replaces its caption"


@exiftool
def test_embedding_into_a_heic_photo_is_done_once(
    tmp_path: Path, picture: Callable[[int], Image.Image]
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    photo = tmp_path / "photo.heic"
    pillow_heif.from_pillow(picture(1)).save(photo)
    Photos(Rules("1")).save(str(photo), caption("a cat"))
    assert by_exiftool(photo)["Description"] == "a cat"
    assert Photos(Rules("1")).holds(str(photo))


@exiftool
def test_embedding_keeps_a_persons_caption(photo: Path) -> None:
    embed_xmp(photo)
    before = photo.read_bytes()
    assert Photos(Rules("1")).holds(str(photo))
    Photos(Rules("1")).save(str(photo), caption())
    assert photo.read_bytes() == before
    Photos(Rules("1", replace=True)).save(str(photo), caption("a cat"))
    assert by_exiftool(photo)["Description"] == "a cat"
    assert by_exiftool(photo)["Description-de"] == "Unser Hund"


@exiftool
def test_what_exiftool_cannot_write_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.bmp")
    with pytest.raises(DataError, match="ExifTool cannot write"):
        Photos(Rules("1")).save(str(tmp_path / "photo.bmp"), caption())
    (tmp_path / "photo.nef").write_bytes(b"II*\0")
    with pytest.raises(DataError, match="raw"):
        Photos(Rules("1")).save(str(tmp_path / "photo.nef"), caption())
