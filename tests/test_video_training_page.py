"""docs/video-training.md: its commands and its example do what the page says."""

import re
import shlex
from pathlib import Path

import pytest

from captioner.annotations.events import load_events
from captioner.annotations.records import load_records
from captioner.cli import main
from captioner.datasets.clips import draw_clips
from captioner.model.temporal import TEMPORAL_ENCODERS
from scripts.compare_temporal import main as compare
from tests.training.runs import QUICK

pytest.importorskip("av")

PAGE = (Path(__file__).parents[1] / "docs" / "video-training.md").read_text(encoding="utf-8")
SMALL = [
    *QUICK,
    "--trainer.logger=false",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--data.batch_size=4",
    "--data.min_count=1",
    "--data.workers=0",
    "--data.preprocessing.size=64",
    "--model.encoder.name=squeezenet1_1",
    "--model.weights=null",
]
DRAWN = "--data.draw_clips=10"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
def test_the_commands_and_the_example_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # as the command does, but put back
    commands = "".join(blocks("sh")).strip().splitlines()
    train, evaluate, comparison, *events, own = (shlex.split(command)[1:] for command in commands)

    assert main([*train, *SMALL, DRAWN]) == 0
    assert main(evaluate) == 0
    assert "CIDEr-D" in capsys.readouterr().out
    exec(compile(blocks("python")[0], "docs/video-training.md", "exec"), {})
    assert capsys.readouterr().out.startswith("8\n")

    assert comparison == ["scripts/compare_temporal.py"]
    assert compare([*SMALL, DRAWN]) == 0
    rows = capsys.readouterr().out.strip().splitlines()[-4:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(TEMPORAL_ENCODERS)
    assert all(f"`{name}`" in PAGE for name in TEMPORAL_ENCODERS)

    with_events, find, score = events
    assert main([*with_events, *SMALL, DRAWN]) == 0
    assert main([*find, "--threshold", "0.01"]) == 0
    assert "\t00:00:00.00-00:00:0" in capsys.readouterr().out
    exec(compile(blocks("python")[1], "docs/video-training.md", "exec"), {})
    capsys.readouterr()
    assert main(score) == 0
    assert "mean" in capsys.readouterr().out

    draw_clips(tmp_path / "data" / "own", 10)
    (tmp_path / "data" / "own" / "train.csv").rename(tmp_path / "data" / "own" / "clips.csv")
    assert main([*own, *SMALL]) == 0


def test_the_table_of_own_clips_is_read(tmp_path: Path) -> None:
    events, table = blocks("csv")
    (tmp_path / "events.csv").write_text(events)
    assert [len(each) for each in load_events(tmp_path / "events.csv").values()] == [2, 0]
    (tmp_path / "clips.csv").write_text(table)
    spans = [(record.start, record.end) for record in load_records(tmp_path / "clips.csv")]
    assert spans == [(3, 7.5), (7.5, 12), (None, None)]
