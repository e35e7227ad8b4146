"""The output folder: what is done, and whose it is."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from captioner import Captioner
from captioner.corpus.blocks import Block, Finished
from captioner.corpus.inputs import plan
from captioner.corpus.output import MANIFEST, PARTS, PLAN, RUN, OutputFolder, write_part
from captioner.corpus.worker import Worker
from captioner.errors import ConfigError, DataError
from tests.corpus.corpora import (
    NO_RUN,
    caption_here,
    jpeg,
    rows_of,
    work_of,
    write_folder,
    write_shard,
    write_table,
)

ROW = ("a.jpg", None, "a cat", -1.5, None, None)
DONE = Finished(images=1, failed=0, seconds=0.5)


def blocks(count: int) -> list[Block]:
    return [Block("images", (f"/{n}.jpg",), first=n, images=1) for n in range(count)]


def test_what_is_finished_is_known_at_the_next_start_with_or_without_a_manifest(
    tmp_path: Path,
) -> None:
    folder = OutputFolder(str(tmp_path / "out"), NO_RUN)
    assert not (tmp_path / "out").exists()
    folder.start(iter(blocks(3)))
    for number in (0, 2):
        write_part(folder.folder, number, [ROW], DONE)
        folder.finish(number, DONE)
    assert not (tmp_path / "out" / MANIFEST).exists()
    again = OutputFolder(str(tmp_path / "out"), NO_RUN)
    assert again.finished == {0: DONE, 2: DONE}
    again.start(iter(()))  # it has its plan
    assert list(again.blocks()) == list(enumerate(blocks(3)))
    again.save()
    (tmp_path / "out" / PARTS / "part-00000002.parquet").unlink()
    assert OutputFolder(str(tmp_path / "out"), NO_RUN).finished == {0: DONE}
    (tmp_path / "out" / MANIFEST).write_text("{")
    assert OutputFolder(str(tmp_path / "out"), NO_RUN).finished == {0: DONE}


def test_a_part_that_is_none_of_ours_is_not_finished(tmp_path: Path) -> None:
    OutputFolder(str(tmp_path), NO_RUN).start(iter(blocks(2)))
    (tmp_path / PARTS / "part-00000000.parquet").write_bytes(b"PAR1 half")
    assert OutputFolder(str(tmp_path), NO_RUN).finished == {}


def test_a_part_that_a_worker_wrote_elsewhere_is_missed(tmp_path: Path) -> None:
    folder = OutputFolder(str(tmp_path), NO_RUN)
    folder.start(iter(blocks(1)))
    with pytest.raises(DataError, match="All machines of a cluster must access the same folder"):
        folder.finish(0, DONE)


def test_a_folder_with_something_else_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an output folder"):
        OutputFolder(str(tmp_path), NO_RUN)
    with pytest.raises(ConfigError, match="is a file"):
        OutputFolder(str(tmp_path / "mine.txt"), NO_RUN)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ("other",)}, "another model"),
        ({"decoding": {"beam_size": 2}}, "beam_size None, now 2"),
        ({"block_size": 5}, "block_size 1000, now 5"),
        ({"input": "/elsewhere"}, "input input, now /elsewhere"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    OutputFolder(str(tmp_path), NO_RUN).start(iter(blocks(1)))
    with pytest.raises(ConfigError, match=said):
        OutputFolder(str(tmp_path), replace(NO_RUN, **change))  # type: ignore[arg-type]
    (tmp_path / RUN).write_text("[]")
    with pytest.raises(ConfigError, match="doesn't say how the folder was made"):
        OutputFolder(str(tmp_path), NO_RUN)


def test_a_start_that_was_killed_while_it_planned_plans_again(tmp_path: Path) -> None:
    OutputFolder(str(tmp_path), NO_RUN).start(iter(blocks(2)))
    (tmp_path / PLAN).unlink()
    folder = OutputFolder(str(tmp_path), NO_RUN)
    folder.start(iter(blocks(2)))
    assert len(list(folder.blocks())) == 2


def test_a_start_that_could_not_write_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(os, "fsync", full)
        OutputFolder(str(tmp_path / "out"), NO_RUN).start(iter(blocks(2)))
    folder = OutputFolder(str(tmp_path / "out"), NO_RUN)
    folder.start(iter(blocks(2)))
    assert len(list(folder.blocks())) == 2


def test_nothing_to_caption_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input has no images"):
        OutputFolder(str(tmp_path / "out"), NO_RUN).start(iter(()))
    assert not (tmp_path / "out").exists()


def test_other_file_systems_take_the_output_too() -> None:
    folder = OutputFolder("memory://corpus-output", NO_RUN)
    folder.start(iter(blocks(1)))
    write_part(folder.folder, 0, [ROW], DONE)
    folder.finish(0, DONE)
    folder.save()
    assert OutputFolder("memory://corpus-output", NO_RUN).finished == {0: DONE}


def test_every_layout_gets_the_captions_of_the_captioner(tmp_path: Path) -> None:
    bodies = {f"{number:04}": jpeg(number) for number in range(6)}
    expected = Captioner.from_pretrained().caption(list(bodies.values()), beam_size=2)
    paths = write_folder(tmp_path / "photos", range(6))
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(map(str, paths)))
    table: dict[str, list[object]] = {"key": list(bodies), "jpg": list(bodies.values())}
    for source in (
        tmp_path / "photos",
        listed,
        write_shard(tmp_path / "shards/a.tar", bodies),
        write_table(tmp_path / "a.parquet", table),
    ):
        rows = caption_here(source, tmp_path / f"out-{source.name}", block_size=4)
        assert [row["caption"] for row in rows] == [caption.text for caption in expected]
        assert [row["log_prob"] for row in rows] == pytest.approx(
            [caption.log_prob for caption in expected], abs=1e-4
        )
        keys = [row["key"] or Path(str(row["path"])).stem for row in rows]
        assert keys == list(bodies)


def test_a_broken_image_costs_its_row_and_a_cut_shard_what_is_missing(tmp_path: Path) -> None:
    images = {"0": b"broken", "1": jpeg(1), "2": b"", "3": jpeg(3), "4": b"\xff\xd8\xff"}
    shard = write_shard(tmp_path / "a.tar", images)
    data = shard.read_bytes()
    shard.write_bytes(data[: data.index(b"4.txt")])
    OutputFolder(str(tmp_path / "out"), NO_RUN).start(plan(str(shard)))
    worker = Worker(work_of(tmp_path / "out"))
    found = worker.caption(0, Block("shard", (str(shard),)))
    assert (found.images, found.failed) == (5, 3)
    assert found.damage is not None and "truncated" in found.damage
    rows = rows_of(tmp_path / "out")
    assert [row["caption"] is None for row in rows] == [True, False, True, False, True]
    assert [row["error"] is None for row in rows] == [False, True, False, True, False]
    metadata = pq.read_metadata(tmp_path / "out" / PARTS / "part-00000000.parquet").metadata
    assert Finished(**json.loads(metadata[b"captioner.finished"])) == found
