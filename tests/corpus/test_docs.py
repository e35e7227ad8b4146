"""docs/corpus.md and the cluster file beside it say what is so."""

import contextlib
import io
import re
import shlex
from pathlib import Path

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


def test_dask_and_spark_take_the_captioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")  # both send functions by it
    pq = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("dask.dataframe")
    monkeypatch.chdir(tmp_path)
    paths = [str(path) for path in write_folder(tmp_path / "photos", range(3))]
    (tmp_path / "photos.csv").write_text("\n".join(["path", *paths, "nowhere.jpg"]))
    names: dict[str, object] = {"__name__": "example"}
    exec("\n".join(block for block in blocks("python") if "add_captions" in block), names)
    captions = [caption.text for caption in Captioner.from_pretrained().caption(paths, beam_size=3)]
    written = pq.read_table(tmp_path / "dask").to_pydict()
    assert written["path"] == [*paths, "nowhere.jpg"]
    assert written["caption"] == [*captions, None]
    sent = cloudpickle.loads(cloudpickle.dumps(names["add_captions_to_all"]))
    pandas = pytest.importorskip("pandas")
    (batch,) = sent(iter([pandas.DataFrame({"path": paths})]))
    assert batch["caption"].tolist() == captions
