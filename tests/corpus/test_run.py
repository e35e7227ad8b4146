"""A corpus on Ray: every image once, whatever dies."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner import Captioner
from captioner.cli import main
from captioner.corpus.blocks import Block
from captioner.corpus.cluster import Workers, _Queue
from captioner.corpus.output import MANIFEST, PARTS, SUMMARY
from captioner.corpus.run import Corpus, Model, Progress, caption_corpus
from captioner.errors import ConfigError, DataError
from tests.corpus.corpora import jpeg, rows_of, write_folder, write_shard, write_table
from tests.corpus.patience import be_patient
from tests.corpus.test_docs import blocks, commands

ROOT = Path(__file__).parents[2]
GREEDY = Model(decoding={"beam_size": 1})
ONE = Workers(count=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray with room for two workers, in this process and its children."""
    import ray

    be_patient()
    os.environ["PYTHONPATH"] = str(ROOT)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


def own_workers() -> list[int]:
    """The processes that caption for this one: children of its raylet."""

    def parent(process: int) -> int:
        status = Path("/proc", str(process), "status").read_text()
        return int(status.partition("PPid:")[2].split()[0])

    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if b"ray::Worker" in (place / "cmdline").read_bytes():
                process = int(place.name)
                found += [process] * (parent(parent(process)) == os.getpid())
    return found


def numbers_of(output: Path) -> list[int]:
    return [int(Path(str(row["path"])).stem) for row in rows_of(output)]


@pytest.mark.usefixtures("cluster")
def test_each_image_is_captioned_once_as_by_the_captioner(tmp_path: Path) -> None:
    paths = write_folder(tmp_path / "photos", range(11))
    told: list[Progress] = []
    corpus = Corpus(str(tmp_path / "photos"), block_size=3)
    summary = caption_corpus(corpus, str(tmp_path / "out"), GREEDY, tell=told.append)
    expected = Captioner.from_pretrained().caption(paths, beam_size=1)
    rows = rows_of(tmp_path / "out")
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert [row["caption"] for row in rows] == [caption.text for caption in expected]
    assert (summary.finished, summary.images, summary.failed, summary.blocks) == (True, 11, 0, 4)
    assert json.loads((tmp_path / "out" / SUMMARY).read_text())["images"] == 11
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert (told[0].done, told[-1].done, told[-1].total) == (0, 11, 11)

    part = tmp_path / "out" / PARTS / "part-00000001.parquet"
    kept = {path.name: path.stat().st_mtime_ns for path in part.parent.iterdir() if path != part}
    part.unlink()
    again = caption_corpus(corpus, str(tmp_path / "out"), GREEDY, workers=ONE)
    assert again.finished
    assert rows_of(tmp_path / "out") == rows
    assert kept == {name: (part.parent / name).stat().st_mtime_ns for name in kept}


def test_workers_get_models_that_they_find_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Model([Path("runs/best"), "hf://me/tiny@v1", tmp_path / "other", "bundled"])
    found = [str(tmp_path / "runs" / "best"), "hf://me/tiny@v1", str(tmp_path / "other"), "bundled"]
    assert (model.elsewhere, Model().elsewhere) == (found, None)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", range(30))
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if not killed and progress.done:
            killed.extend(own_workers()[:1])
            os.kill(killed[0], signal.SIGKILL)

    corpus = Corpus(str(tmp_path / "photos"), block_size=10)
    summary = caption_corpus(corpus, str(tmp_path / "out"), GREEDY, tell=kill_one)
    assert killed
    assert summary.finished and not summary.unread
    assert numbers_of(tmp_path / "out") == list(range(30))


@pytest.mark.usefixtures("cluster")
def test_a_file_that_is_away_is_tried_again_by_the_next_start(tmp_path: Path) -> None:
    shards = [write_shard(tmp_path / f"{n}.tar", {f"{n}": jpeg(n)}) for n in range(2)]
    (tmp_path / "list.txt").write_text("\n".join(map(str, shards)))
    away = shards[0].rename(tmp_path / "away")
    corpus, output = Corpus(str(tmp_path / "list.txt")), tmp_path / "out"
    summary = caption_corpus(corpus, str(output), GREEDY, workers=ONE)
    assert not summary.finished
    assert list(summary.unread) == [str(shards[0])]
    away.rename(shards[0])
    assert caption_corpus(corpus, str(output), GREEDY, workers=ONE).finished
    assert [row["key"] for row in rows_of(output)] == ["0", "1"]


@pytest.mark.usefixtures("cluster")
def test_the_command_names_what_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = write_shard(tmp_path / "a.tar", {"1": jpeg(1), "2": b"broken", "3": jpeg(3)})
    shard.write_bytes(shard.read_bytes()[:-12_000])
    call = ["corpus", str(shard), "--output", str(tmp_path / "out"), "--beam-size", "1"]
    assert main([*call, "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert f"error: {shard}: captioned only in part, it is truncated" in said.err
    assert "1 images cannot be read" in said.err
    assert f"images are in {tmp_path / 'out'}" in said.out
    assert main([*call, "--workers", "1"]) == 1  # it stays so, and is not done again


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_commands_of_the_page_do_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = write_folder(tmp_path / "photos", range(2))
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    bodies = {path.stem: path.read_bytes() for path in paths}
    write_shard(tmp_path / "shards" / "0.tar", bodies)
    write_table(tmp_path / "table.parquet", {"jpg": list(bodies.values())})
    captions = set()
    for name, *words in commands():
        if "--address" not in words:
            assert name == "captioner"
            assert main([*words, "--workers", "1"]) == 0
            rows = rows_of(Path(words[words.index("--output") + 1]))
            captions.add(tuple(row["caption"] for row in rows))
    assert len(captions) == 1
    capsys.readouterr()
    (code,) = (block for block in blocks("python") if "read_table" in block)
    exec(code, {})
    assert capsys.readouterr().out.startswith("2 ['path', 'key', 'caption', 'log_prob',")


@pytest.mark.usefixtures("cluster")
def test_no_room_for_a_worker_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", [1])
    with pytest.raises(ConfigError, match="A worker requires 64 CPUs and 0 GPUs; Ray has 2 and 0"):
        caption_corpus(
            Corpus(str(tmp_path / "photos")),
            str(tmp_path / "out"),
            GREEDY,
            workers=Workers(cpus=64),
        )


@pytest.mark.usefixtures("cluster")
def test_an_output_that_cannot_be_written_ends_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", range(2))
    output = tmp_path / "out"

    def spoil(progress: Progress) -> None:
        if (output / PARTS).is_dir():
            (output / PARTS).rmdir()
            (output / PARTS).write_text("a file")

    with pytest.raises(DataError, match="All machines of a cluster must access it"):
        corpus = Corpus(str(tmp_path / "photos"))
        caption_corpus(corpus, str(output), GREEDY, workers=ONE, tell=spoil)


def test_a_block_that_has_lost_three_workers_is_given_up() -> None:
    blocks = [(number, Block("images", (f"/{number}.jpg",))) for number in range(2)]
    queue = _Queue(iter(blocks))
    assert queue
    first = queue.take()
    assert queue.put_back(first)
    assert queue.take() == first
    assert queue.put_back(first)
    assert queue.take() == first
    assert not queue.put_back(first)
    assert queue and queue.take() == blocks[1]
    assert not queue


CALL = "import sys; from captioner.cli import main; sys.exit(main(sys.argv[1:]))"
PATIENT = f"from tests.corpus.patience import be_patient; be_patient(); {CALL}"


def start(code: str, *args: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("code", "options", "said"),
    [
        (f"import sys; sys.modules['ray'] = None; {CALL}", [], "pip install 'captioner[ray]'"),
        (f"import sys; sys.modules['pyarrow'] = None; {CALL}", [], "'captioner[ray]'"),
        (CALL, ["--address", "127.0.0.1:1"], "No Ray cluster answers at 127.0.0.1:1"),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, code: str, options: list[str], said: str
) -> None:
    write_folder(tmp_path / "photos", [1])
    process = start(code, "corpus", tmp_path / "photos", "--output", tmp_path / "out", *options)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert said in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--address", "ray://x:1"], "expected HOST:PORT"),
        (["--model", "nowhere"], "nowhere does not exist"),
        (["--workers", "0"], "expected at least 1 worker"),
    ],
)
def test_a_wrong_call_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    write_folder(tmp_path / "photos", [1])
    command = ["corpus", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    assert main([*command, *options]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_it_goes_on_where_it_was_stopped(tmp_path: Path, number: int, status: int) -> None:
    write_folder(tmp_path / "photos", range(120))
    call = ["corpus", tmp_path / "photos", "--output", tmp_path / "out"]
    call += ["--block-size", 10, "--beam-size", 1]
    process = start(PATIENT, *call)
    parts = tmp_path / "out" / PARTS
    while process.poll() is None and not (parts.is_dir() and len(list(parts.iterdir())) > 2):
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does it
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == status
    if number != signal.SIGKILL:
        assert "Stopped." in err and "run the command again to resume" in err
        assert json.loads((tmp_path / "out" / MANIFEST).read_text())["finished"]
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    assert 2 < len(kept) < 12
    process = start(PATIENT, *call)
    process.communicate(timeout=600)
    assert process.returncode == 0
    assert sorted(numbers_of(tmp_path / "out")) == list(range(120))
    assert kept == {name: (parts / name).stat().st_mtime_ns for name in kept}


IMAGES = int(os.environ.get("CAPTIONER_CORPUS_IMAGES", "20000"))


@pytest.mark.slow
def test_two_machines_finish_a_corpus_though_one_dies(
    tmp_path: Path, checkpoint_folder: Path
) -> None:
    """In a process of its own: this one is connected to another cluster."""
    write_folder(tmp_path / "photos", range(IMAGES))
    code = f"""
import ray
from ray.cluster_utils import Cluster
from captioner.corpus.run import Corpus, Model, caption_corpus
from tests.corpus.test_docs import blocks, commands
from tests.corpus.patience import be_patient

be_patient()
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False))
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

def kill_one(progress):
    if progress.done > {IMAGES} // 4 and len(nodes) == 2:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("killed at", progress.done)

summary = caption_corpus(
    Corpus({str(tmp_path / "photos")!r}, block_size={IMAGES} // 40),
    {str(tmp_path / "out")!r},
    Model([{str(checkpoint_folder)!r}]),
    tell=kill_one,
)
print(summary)
"""
    process = start(code)
    out, err = process.communicate(timeout=3000)
    assert process.returncode == 0, err
    assert "killed at" in out and "finished=True" in out, out
    assert sorted(numbers_of(tmp_path / "out")) == list(range(IMAGES))
    assert all(row["error"] is None for row in rows_of(tmp_path / "out"))
    print(out)
