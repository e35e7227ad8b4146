"""docs/corpus.md and the cluster file beside it say what is so."""

import contextlib
import io
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from captioner import Captioner
from captioner.cli import parse
from tests.corpus.corpora import write_folder

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "corpus.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in "".join(blocks("sh")).splitlines()]


def test_every_command_is_one_that_there_is() -> None:
    """tests/corpus/test_run.py executes those that need no bucket."""
    assert len(commands()) == 5
    for name, *words in commands():
        assert name == "captioner"
        assert parse(words).run.__module__ == "captioner.commands.corpus"


def test_the_table_is_what_its_code_prints() -> None:
    (code,) = (block for block in blocks("python") if "RATE" in block)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert blocks("text") == [printed.getvalue()]
    assert " 7.1 " in printed.getvalue()  # 10^6 / 39 / 3600


def test_the_cluster_file_is_one_that_ray_takes() -> None:
    yaml = pytest.importorskip("yaml")
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = yaml.safe_load((DOCS / "cluster-aws.yaml").read_text(encoding="utf-8"))
    util.validate_config(util.prepare_config(config))
    assert config["available_node_types"]["worker"]["resources"] == {"CPU": 8}


def run_examples(engine: str, folder: Path) -> tuple[list[str], list[str | None], dict[str, Any]]:
    """Execute the page's example of an engine on three photos and a path without one.

    Returns:
        The paths, the expected captions, and the names that the example defines.
    """
    paths = [str(path) for path in write_folder(folder / "photos", range(3))]
    (folder / "photos.csv").write_text("\n".join(["path", *paths, "nowhere.jpg"]))
    captions = [caption.text for caption in Captioner.from_pretrained().caption(paths, beam_size=3)]
    code = [block for block in blocks("python") if "def add_captions(" in block or engine in block]
    assert len(code) == 2
    names: dict[str, Any] = {"__name__": "example"}
    exec("\n".join(code), names)
    return [*paths, "nowhere.jpg"], [*captions, None], names


def test_dask_takes_the_captioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("dask.dataframe")
    cloudpickle = pytest.importorskip("cloudpickle")  # Dask and Spark send functions by it
    monkeypatch.chdir(tmp_path)
    paths, captions, names = run_examples("dask", tmp_path)
    written = pq.read_table(tmp_path / "dask").to_pydict()
    assert (written["path"], written["caption"]) == (paths, captions)
    sent = cloudpickle.loads(cloudpickle.dumps(names["add_captions"]))
    photos = names["pd"].DataFrame({"path": paths[:-1]})
    assert sent(photos)["caption"].tolist() == captions[:-1]


@pytest.mark.slow
def test_spark_takes_the_captioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("no Java here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    paths, captions, names = run_examples("spark", tmp_path)
    names["spark"].stop()
    written = pq.read_table(tmp_path / "spark").to_pydict()
    assert (written["path"], written["caption"]) == (paths, captions)
