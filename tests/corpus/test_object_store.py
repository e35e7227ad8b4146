"""A corpus in an object store that speaks S3, and captions that go there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captioner.corpus.blocks import Finished
from captioner.corpus.inputs import plan
from captioner.corpus.output import PARTS, OutputFolder, part_name, write_part
from captioner.errors import ConfigError, DataError
from tests.corpus.corpora import NO_RUN, caption_here, jpeg, write_shard, write_table

pytest.importorskip("moto")
pytest.importorskip("flask_cors")  # of moto's server
s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """A bucket named corpus; whatever this process and its children ask of S3 goes to it."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3 = s3fs.S3FileSystem()
        s3.mkdir("corpus")
        yield s3
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_tree_of_images_goes_from_bucket_to_bucket(store: Any, tmp_path: Path) -> None:
    names = ["a/1.jpg", "a/zwei ä.JPG", "b/c/3#x.jpg", "b/4%20.jpg", "b/5[1].jpg", "b/6+&=.jpg"]
    for number, name in enumerate(names):
        store.pipe_file(f"corpus/photos/{name}", jpeg(number))
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(number))
    store.pipe_file("corpus/photos/.hidden/7.jpg", jpeg(7))
    store.pipe_file("corpus/photos/notes.txt", b"no image")
    expected = caption_here(tmp_path / "photos", tmp_path / "out")
    captions = {str(row["path"]).removeprefix(f"{tmp_path}/"): row["caption"] for row in expected}
    assert len(captions) == len(names)
    for output in ("s3://corpus/out", str(tmp_path / "local")):
        rows = caption_here("s3://corpus/photos", output, block_size=4)
        assert len(rows) == len(names)
        for row in rows:
            assert captions[str(row["path"]).removeprefix("s3://corpus/")] == row["caption"]
    again = OutputFolder("s3://corpus/out", NO_RUN)
    assert sum(found.images for found in again.finished.values()) == len(names)


def test_shards_tables_and_lists_are_read_from_it(store: Any, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "1.tar", {name: jpeg(int(name)) for name in "123"})
    store.put_file(str(shard), "corpus/shards/1.tar")
    store.pipe_file("corpus/shards/2.tar", shard.read_bytes()[:-12_000])
    table = write_table(tmp_path / "1.parquet", {"id": list("abcdefg"), "jpg": [jpeg(1)] * 7})
    store.put_file(str(table), "corpus/tables/1.parquet")
    store.pipe_file("corpus/one.jpg", jpeg(1))
    store.pipe_file("corpus/list.txt", b"one.jpg\nnowhere.jpg\ns3://corpus/shards/1.tar\n")

    rows = caption_here("s3://corpus/shards", tmp_path / "a")
    assert [row["key"] for row in rows] == ["1", "2", "3", "1", "2"]
    damaged = OutputFolder(str(tmp_path / "a"), NO_RUN).finished[1].damage
    assert damaged is not None and "truncated" in damaged
    assert len(list(plan("s3://corpus/shards/*.tar"))) == 2
    rows = caption_here("s3://corpus/tables", tmp_path / "b")
    assert [row["key"] for row in rows] == list("abcdefg")
    rows = caption_here("s3://corpus/list.txt", tmp_path / "c")
    assert [(row["path"], row["key"], row["error"]) for row in rows] == [
        ("s3://corpus/one.jpg", None, None),
        ("s3://corpus/nowhere.jpg", None, "does not exist"),
        ("s3://corpus/shards/1.tar", "1", None),
        ("s3://corpus/shards/1.tar", "2", None),
        ("s3://corpus/shards/1.tar", "3", None),
    ]


def test_a_part_that_another_machine_writes_after_a_restart_is_seen(
    store: Any, tmp_path: Path
) -> None:
    """A listing that a client keeps is older than what workers write."""
    output = "s3://corpus/restarted"
    worker = s3fs.S3FileSystem(skip_instance_cache=True)  # knows nothing of the other's cache
    (tmp_path / PARTS).mkdir()
    found = Finished(0, 0, 1.0)
    for name in "12":
        store.pipe_file(f"corpus/two/{name}.jpg", jpeg(int(name)))
    for number in range(2):  # the second start lists the parts
        folder = OutputFolder(output, NO_RUN)
        folder.start(plan("s3://corpus/two", block_size=1))
        write_part(str(tmp_path), number, [], found)
        part = f"{PARTS}/{part_name(number)}"
        worker.put_file(str(tmp_path / part), f"corpus/restarted/{part}")
        folder.finish(number, found)
    assert sorted(OutputFolder(output, NO_RUN).finished) == [0, 1]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("source", ["s3://corpus/nowhere", "s3://nobody/photos"])
def test_what_is_not_there_is_said(source: str) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list(plan(source))


def test_another_folder_is_left_as_it_is(store: Any) -> None:
    store.pipe_file("corpus/full/notes.txt", b"mine")
    with pytest.raises(ConfigError, match="is not empty and not an output folder"):
        OutputFolder("s3://corpus/full", NO_RUN)
