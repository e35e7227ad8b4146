"""Which images a block has; what is damaged, and what stays of it."""

import gzip
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.corpus.blocks import Block
from captioner.corpus.inputs import plan
from captioner.corpus.reading import CorpusImage, DamageError, read_block
from captioner.errors import ConfigError, ImageError
from tests.corpus.corpora import jpeg, write_shard, write_table


def read(block: Block) -> tuple[list[CorpusImage], str | None]:
    """What is read of a block, and what is wrong with the rest."""
    images: list[CorpusImage] = []
    try:
        images.extend(read_block(block))
    except DamageError as error:
        return images, str(error)
    return images, None


def test_a_shard_gives_its_images_and_nothing_else(tmp_path: Path) -> None:
    contents = {f"00{number}": jpeg(number) for number in range(40)}
    path = str(write_shard(tmp_path / "a.tar", contents))
    images, damage = read(Block("shard", (path,)))
    assert damage is None
    assert {image.key: image.source for image in images} == contents
    assert len(images) == 40 and {image.path for image in images} == {path}


def test_metadata_that_macos_adds_to_a_shard_are_no_images(tmp_path: Path) -> None:
    contents = {"photos/1": jpeg(1), "photos/._1": b"\0\5\x16\7Mac OS X", "_2": jpeg(2)}
    path = str(write_shard(tmp_path / "a.tar", contents))
    images, damage = read(Block("shard", (path,)))
    assert damage is None and [image.key for image in images] == ["photos/1", "_2"]


def test_wherever_a_shard_is_cut_its_whole_images_are_kept(tmp_path: Path) -> None:
    contents = {f"{number}": jpeg(number) for number in range(3)}
    whole = write_shard(tmp_path / "a.tar", contents)
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        ends = [m.offset_data + m.size for m in tar if m.name.endswith(".jpg")]
        end = max(m.offset_data + (m.size + 511) // 512 * 512 for m in tar.getmembers())
    assert end % 512 == 0
    for cut in (*range(1, end, 700), end - 512, end - 511, end):
        path = tmp_path / "cut.tar"
        path.write_bytes(data[:cut])
        images, damage = read(Block("shard", (str(path),)))
        expected = [key for key, stop in zip(contents, ends, strict=True) if stop <= cut]
        assert [image.key for image in images] == expected, cut
        assert damage is not None, cut


def test_a_shard_that_is_none_and_one_with_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no archive" * 1000)
    images, damage = read(Block("shard", (str(tmp_path / "text.tar"),)))
    assert images == [] and damage
    tarfile.open(tmp_path / "none.tar", "w").close()
    assert read(Block("shard", (str(tmp_path / "none.tar"),))) == ([], None)
    with pytest.raises(FileNotFoundError):
        list(read_block(Block("shard", (str(tmp_path / "nowhere.tar"),))))


def test_a_second_name_of_a_file_in_a_shard_is_an_image_too(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(jpeg(1))
    (photos / "b.jpg").write_bytes(jpeg(2))
    os.link(photos / "a.jpg", photos / "c.jpg")
    (photos / "d.jpg").symlink_to("a.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in "abcd":
            tar.add(photos / f"{name}.jpg", f"{name}.jpg")
        assert tar.getmember("c.jpg").islnk()
    images, damage = read(Block("shard", (str(tmp_path / "a.tar"),)))
    assert damage is None and [image.key for image in images] == list("abcd")
    files = [(photos / f"{name}.jpg").read_bytes() for name in "abc"]
    assert [image.source for image in images[:3]] == files
    assert isinstance(images[3].source, ImageError)
    assert "d: is a link to a.jpg" in str(images[3].source)


def test_a_link_to_a_file_that_the_shard_lacks_is_an_error_of_its_row(tmp_path: Path) -> None:
    link = tarfile.TarInfo("b.jpg")
    link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(link)
    images, damage = read(Block("shard", (str(tmp_path / "a.tar"),)))
    assert damage is None and [str(image.source) for image in images] == [
        f"{tmp_path}/a.tar, b: is a link to a.jpg"
    ]


def test_of_joined_shards_the_first_is_read_and_the_rest_is_told(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a.tar", {"a": jpeg(1)}).read_bytes()
    second = write_shard(tmp_path / "b.tar", {"b": jpeg(2)}).read_bytes()
    (tmp_path / "both.tar").write_bytes(first + second)
    images, damage = read(Block("shard", (str(tmp_path / "both.tar"),)))
    assert [image.key for image in images] == ["a"]
    assert damage is not None and "more data after its end" in damage
    (tmp_path / "padded.tar").write_bytes(first + bytes(3 * 2**20))
    assert read(Block("shard", (str(tmp_path / "padded.tar"),)))[1] is None


def test_a_compressed_shard_says_so_and_counts_as_unread(tmp_path: Path) -> None:
    plain = write_shard(tmp_path / "a.tar", {"a": jpeg(1)})
    plain.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(OSError, match="it is compressed; decompress it first"):
        read(Block("shard", (str(plain),)))
    plain.write_bytes(gzip.decompress(plain.read_bytes()))
    images, damage = read(Block("shard", (str(plain),)))
    assert [image.source for image in images] == [jpeg(1)] and damage is None


def test_keys_that_are_null_or_no_text_mix_up_no_rows(tmp_path: Path) -> None:
    bodies = [jpeg(number) for number in range(3)]
    keys = pa.array([b"1", None, b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"key": keys, "image": bodies}), tmp_path / "a.parquet")
    (block,) = plan(str(tmp_path / "a.parquet"))
    images = list(read_block(block))
    assert [image.key for image in images] == ["1", None, os.fsdecode(b"caf\xe9")]
    assert [image.source for image in images] == bodies


def test_a_table_may_hold_its_images_as_views(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([jpeg(1), jpeg(2)], pa.binary_view())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert pa.types.is_binary_view(pq.read_schema(tmp_path / "a.parquet").field("image").type)
    (block,) = plan(str(tmp_path / "a.parquet"))
    assert [image.source for image in read_block(block)] == [jpeg(1), jpeg(2)]


def test_a_table_gives_bytes_with_keys_or_row_numbers(tmp_path: Path) -> None:
    bodies = [jpeg(number) for number in range(8)]
    plain = write_table(tmp_path / "plain.parquet", {"jpg": bodies})
    keyed = write_table(tmp_path / "keyed.parquet", {"url": list("abcdefgh"), "image": bodies})
    pairs = [{"bytes": body, "path": f"{n}.jpg"} for n, body in enumerate(bodies)]
    paired = write_table(tmp_path / "paired.parquet", {"image": pairs, "label": [1] * 8})
    for path, keys in ((plain, "01234567"), (keyed, "abcdefgh"), (paired, "01234567")):
        blocks = list(plan(str(path), block_size=3))
        assert len(blocks) == 3
        images = [image for block in blocks for image in read_block(block)]
        assert [image.source for image in images] == bodies
        assert [image.key for image in images] == list(keys)


def test_a_table_without_images_asks_for_the_column(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", {"one": [b"1"], "two": [b"2"], "text": ["3"]})
    (block,) = plan(str(path))
    with pytest.raises(ConfigError, match=r"--image-column\. The columns are one, two, text"):
        list(read_block(block))
    with pytest.raises(ConfigError, match="no column text"):
        list(read_block(block, "text"))
    assert [image.source for image in read_block(block, "two")] == [b"2"]


def test_an_empty_cell_is_an_error_of_its_row(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", {"key": ["a", "b"], "jpg": [None, jpeg(1)]})
    (block,) = plan(str(path))
    first, second = read_block(block)
    assert isinstance(first.source, ImageError) and "has no bytes" in str(first.source)
    assert second.source == jpeg(1)


def test_a_table_that_is_cut_off_is_damaged(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", {"jpg": [jpeg(1)] * 3})
    path.write_bytes(path.read_bytes()[:-100])
    (block,) = plan(str(path))
    images, damage = read(block)
    assert images == [] and damage


def test_a_table_that_could_not_be_planned_is_read_once_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.parquet\n")
    (block,) = plan(str(tmp_path / "list.txt"))
    write_table(tmp_path / "a.parquet", {"key": ["a", "b"], "jpg": [jpeg(1), jpeg(2)]})
    assert [(image.key, image.source) for image in read_block(block)] == [
        ("a", jpeg(1)),
        ("b", jpeg(2)),
    ]


def test_a_url_that_is_not_there_is_an_error_of_its_row() -> None:
    (image,) = read_block(Block("images", ("memory://corpus/nowhere.jpg",)))
    assert isinstance(image.source, ImageError)
    assert str(image.source) == "memory://corpus/nowhere.jpg: does not exist"
