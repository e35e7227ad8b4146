"""What is a block of which corpus."""

import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest

from captioner.corpus.blocks import Block
from captioner.corpus.inputs import _listed, plan
from captioner.corpus.reading import read_block
from captioner.corpus.storage import locate
from captioner.errors import ConfigError, DataError, ImageError
from tests.corpus.corpora import jpeg, write_folder, write_shard, write_table


def test_a_folder_is_cut_into_blocks_in_order(tmp_path: Path) -> None:
    paths = [str(path) for path in write_folder(tmp_path, range(7))]
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_bytes(jpeg(1))
    blocks = list(plan(str(tmp_path), block_size=3))
    assert [block.paths for block in blocks] == [
        tuple(paths[:3]),
        tuple(paths[3:6]),
        tuple(paths[6:]),
    ]
    assert [(block.first, block.images) for block in blocks] == [(0, 3), (3, 3), (6, 1)]


def test_a_relative_folder_gives_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_folder(tmp_path / "photos", [1])
    monkeypatch.chdir(tmp_path)
    (block,) = plan("photos")
    assert block.paths == (str(path),)


def test_a_list_has_paths_beside_it_urls_shards_and_tables(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", {"1": jpeg(1)})
    table = write_table(tmp_path / "b.parquet", {"jpg": [jpeg(1)] * 4})
    (tmp_path / "list.txt").write_text(
        f"one.jpg\r\n\n  spaced.jpg\n{shard}\ns3://bucket/two.jpg\nb.parquet\n/abs/three\n"
    )
    blocks = list(plan(str(tmp_path / "list.txt"), block_size=3))
    assert [(block.kind, block.paths, block.groups) for block in blocks] == [
        ("images", (str(tmp_path / "one.jpg"), str(tmp_path / "  spaced.jpg")), ()),
        ("shard", (str(shard),), ()),
        ("images", ("s3://bucket/two.jpg",), ()),
        ("table", (str(table),), (0,)),
        ("table", (str(table),), (1,)),
        ("images", ("/abs/three",), ()),
    ]
    firsts = [block.first for block in blocks]
    assert firsts == sorted(set(firsts))


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("one.jpg\ntwo.jpg\n", encoding="utf-8-sig")
    (block,) = plan(str(tmp_path / "list.txt"))
    assert block.paths == (str(tmp_path / "one.jpg"), str(tmp_path / "two.jpg"))


def test_dots_after_a_link_lead_where_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    for name in ("a.jpg", "real/a.jpg"):
        (tmp_path / name).write_bytes(jpeg(0))
    (tmp_path / "list.txt").write_text("link/../a.jpg\nreal/../a.jpg\n")
    (block,) = plan(str(tmp_path / "list.txt"))
    first, second = block.paths
    assert os.path.samefile(first, tmp_path / "real" / "a.jpg")
    assert second == str(tmp_path / "a.jpg")


def test_a_list_in_the_root_folder_has_paths_beside_it(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("photos/one.jpg\n")
    system, path = locate(str(tmp_path / "list.txt"))
    assert list(_listed(system, "/list.txt", path)) == ["/photos/one.jpg"]


def test_names_that_are_no_text_come_through(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg\n")
    (block,) = plan(str(tmp_path / "list.txt"))
    assert block.paths == (f"{tmp_path}/caf\udce9.jpg",)
    assert Block.from_line(block.to_line()) == block


def test_a_folder_of_shards_and_one_of_tables_are_known(tmp_path: Path) -> None:
    for number in (2, 1):
        write_shard(tmp_path / f"shards/{number}.tar", {"1": jpeg(1)})
        write_table(tmp_path / f"shards/{number}.parquet", {"url": ["a"]})  # as img2dataset has it
        write_table(tmp_path / f"tables/{number}.parquet", {"jpg": [jpeg(1)] * 7})
    shards = [block.paths[0] for block in plan(str(tmp_path / "shards"))]
    assert shards == [str(tmp_path / f"shards/{number}.tar") for number in (1, 2)]
    assert shards == [block.paths[0] for block in plan(str(tmp_path / "shards/*.tar"))]
    tables = list(plan(str(tmp_path / "tables"), block_size=4))
    assert [(block.groups, block.images) for block in tables] == [((0, 1), 6), ((2,), 1)] * 2


def test_another_file_system_is_read_like_a_folder() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a/2.jpg", "a/1.jpg", "a/.hidden/3.jpg", "a/text.txt", "b/1.tar"):
        memory.pipe_file(f"/corpus/{name}", b"-")
    memory.pipe_file("/corpus/list.txt", b"a/1.jpg\n")
    (block,) = plan("memory://corpus/a")
    assert block.paths == ("memory:///corpus/a/1.jpg", "memory:///corpus/a/2.jpg")
    (block,) = plan("memory://corpus/b")
    assert block.kind == "shard"
    (block,) = plan("memory://corpus/list.txt")
    assert block.paths == ("memory://corpus/a/1.jpg",)
    memory.rm("/corpus", recursive=True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_list_and_its_images_are_read_from_a_web_server(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "list.txt").write_text(f"1.jpg\n{address}/2.jpg\n")
        (block,) = plan(f"{address}/list.txt")
        assert block.paths == (f"{address}/1.jpg", f"{address}/2.jpg")
        first, second = read_block(block)
        assert first.source == jpeg(1)
        assert isinstance(second.source, ImageError) and second.source.reason == "does not exist"
        with pytest.raises(DataError, match="does not exist"):
            list(plan(f"{address}/nowhere.txt"))
        server.shutdown()


@pytest.mark.parametrize(
    ("source", "kind", "error", "said"),
    [
        ("nowhere", "auto", DataError, "does not exist"),
        ("memory://nowhere", "auto", DataError, "does not exist"),
        ("odd://bucket/x", "auto", ConfigError, "unknown file system odd://"),
        ("photo.jpg", "auto", ConfigError, "captioner caption"),
        (".", "list", ConfigError, "is a folder"),
        ("list.bin", "auto", DataError, "list.bin, line 1: not text"),
        ("list.txt", "shards", ConfigError, "not shards"),
        ("shard.tar", "parquet", ConfigError, "ends in .tar, not parquet"),
        ("table.parquet", "images", ConfigError, "ends in .parquet, not images"),
        (".", "movies", ConfigError, "expected auto, images"),
    ],
)
def test_what_cannot_be_a_corpus_is_refused_in_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    kind: str,
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(jpeg(1))
    (tmp_path / "list.bin").write_bytes(b"\xff\0\1")
    (tmp_path / "list.txt").write_text("a.jpg\n")
    write_shard(tmp_path / "shard.tar", {"a": jpeg(1)})
    write_table(tmp_path / "table.parquet", {"jpg": [jpeg(1)]})
    with pytest.raises(error, match=said):
        list(plan(source, kind))


def test_a_block_size_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="block size is 0"):
        plan(str(tmp_path), block_size=0)
