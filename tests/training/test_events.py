"""Training on labelled events: the loss, average precision, and a run that leaves such a model."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from captioner.annotations.records import load_records
from captioner.checkpoint import read_checkpoint
from captioner.cli import main as captioner
from captioner.data.events import UNKNOWN, event_labels
from captioner.datasets.clips import draw_clips
from captioner.errors import DataError
from captioner.events.config import EventConfig
from captioner.inference import Captioner
from captioner.training.average_precision import (
    average_precisions,
    mean_average_precision,
    score_events,
)
from captioner.training.loss import event_loss
from captioner.training.train import main
from tests.clip_models import save_clip_model
from tests.training.runs import QUICK, ROOT

pytest.importorskip("av")

TINY_EVENTS = ROOT / "configs" / "tiny_events.yaml"
SMALL = [
    *QUICK,
    "--trainer.logger=false",
    "--trainer.max_epochs=1",
    "--data.batch_size=4",
    "--data.preprocessing.size=64",
    "--data.draw_clips=10",
    "--model.encoder.name=squeezenet1_1",  # the one that is built fastest
    "--model.weights=null",
    "--model.decoding={beam_size: 1, max_length: 8}",
]


def test_the_loss_is_the_cross_entropy_of_labelled_frames() -> None:
    logits = torch.tensor([[[0.0, 2.0], [-1.0, 0.5]], [[3.0, 3.0], [3.0, 3.0]]])
    labels = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[UNKNOWN] * 2] * 2])

    def softplus(x: float) -> float:
        return float(np.log1p(np.exp(x)))

    by_hand = (softplus(-0.0) + softplus(2.0) + softplus(-1.0) + softplus(-0.5)) / 2  # frames
    loss, figure = event_loss(logits, labels, lambda counts: [1.0 for _ in counts])
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    assert figure.item() == pytest.approx(by_hand, rel=1e-6)
    halved, figure = event_loss(logits, labels, lambda counts: [0.25 * each for each in counts])
    assert halved.item() == pytest.approx(by_hand * 0.5, rel=1e-6), "two frames are labelled"
    assert figure.item() == pytest.approx(by_hand, rel=1e-6)
    none, _ = event_loss(logits, torch.full_like(labels, UNKNOWN), lambda counts: [1.0])
    assert none.item() == 0


def test_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((60, 3)).round(1).astype(np.float32)  # with ties
    steps = (rng.random((60, 3)) < 0.3).astype(np.float32)
    steps[:, 2] = 0
    steps[50:] = UNKNOWN
    found = average_precisions(probabilities, steps, ["a", "b", "never"])
    expected = {
        label: average_precision_score(steps[:50, column], probabilities[:50, column])
        for column, label in enumerate("ab")
    }
    assert found == {**{k: pytest.approx(v, abs=1e-6) for k, v in expected.items()}, "never": None}
    assert mean_average_precision(found) == pytest.approx(np.mean([*expected.values()]), abs=1e-6)
    assert mean_average_precision({"never": None}) is None


def test_labels_follow_the_part_of_the_clip_that_a_record_is(tmp_path: Path) -> None:
    draw_clips(tmp_path / "clips", 5)
    folder = tmp_path / "clips"
    (folder / "parts.csv").write_text(
        "clip,start,end,caption\nclips/00001.mp4,,,all\nclips/00001.mp4,1,2,half\n"
        "clips/00002.mp4,,,other\nclips/00003.mp4,,,nobody knows\n"
    )
    (folder / "own.csv").write_text(
        "clip,start,end,label\nclips/00001.mp4,0.5,1.25,b\n./clips/00001.mp4,1.75,9,a\n"
        "clips/00002.mp4,,,\n"
    )
    train = load_records(folder / "parts.csv")
    labels = event_labels(folder / "own.csv", None, {"train": train, "val": train[:1]}, 4)
    assert labels.config.labels == ("a", "b")
    assert labels.config.seconds == 2.0, "the median of 2, 1 and 2"
    whole, half, nothing, unknown = labels.steps["train"]
    np.testing.assert_array_equal(whole, [[0, 0], [0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(half, [[0, 1], [0, 0], [0, 0], [1, 0]])
    assert not nothing.any()
    assert (unknown == UNKNOWN).all()
    with pytest.raises(DataError, match="none of the 1 training clips is in it"):
        event_labels(folder / "own.csv", None, {"train": train[3:], "val": []}, 4)


def test_events_after_the_end_of_a_clip_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_clips(tmp_path / "clips", 3)
    folder = tmp_path / "clips"
    (folder / "own.csv").write_text(
        "clip,start,end,label\nclips/00001.mp4,1.5,9,a\nclips/00002.mp4,1500,2000,a\n"
    )
    for part, warns in (("1,2", False), (",", True)):
        (folder / "clips.csv").write_text(
            f"clip,start,end,caption\nclips/00001.mp4,,,x\nclips/00002.mp4,{part},x\n"
        )
        caplog.clear()
        train = load_records(folder / "clips.csv")
        event_labels(folder / "own.csv", None, {"train": train, "val": train}, 4)
        late = "1 events begin after the end of their clip and are ignored, such as 'a' at 1500 s"
        assert (late in caplog.text) == warns, "a part may leave out events of its clip"


def test_scoring_names_events_that_do_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_clips(tmp_path / "clips", 1)
    table = tmp_path / "clips" / "own.csv"
    rows = ("0,1,moves", "0,1,move", "2000,3000,moves")
    table.write_text("clip,start,end,label\n" + "".join(f"clips/00000.mp4,{r}\n" for r in rows))
    events = EventConfig(("grows", "moves"), 2.0)
    model = save_clip_model(tmp_path / "model", "attention", events=events, onnx=False)
    found = score_events(Captioner.from_pretrained(model, backend="torch"), table)
    assert found["grows"] is None
    assert found["moves"] is not None
    assert "the model doesn't tell move, whose events are ignored" in caplog.text
    assert "1 events begin after the end of their clip" in caplog.text


def test_a_run_leaves_a_model_that_tells_events(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "captioner")
    assert main([f"--config={TINY_EVENTS}", *SMALL]) == 0, caplog.text
    assert "mean average precision of events" in caplog.text
    assert "captioner caption CLIP --model runs/tiny_events/best" in caplog.text
    best = Path("runs/tiny_events/best")
    with open("data/clips/events.csv", encoding="utf-8") as file:
        told = {row["label"] for row in csv.DictReader(file)}
    config = read_checkpoint(best).events
    assert config is not None
    assert (set(config.labels), config.seconds) == (told, 2.0)
    assert "Tells events in windows of 2 s" in (best / "README.md").read_text()

    score = ["events", "--annotations", "data/clips/val_events.csv", "--model", str(best)]
    capsys.readouterr()
    assert captioner([*score, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["average_precision"]) == told
    assert captioner(score) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["mean", f"{100 * found['mean']:.1f}"]
    logged = caplog.text.rpartition("mean average precision of events ")[2].split()[0]
    assert float(logged) == pytest.approx(100 * found["mean"], abs=0.5), "as in validation"

    (last, *_) = Path("runs/tiny_events/checkpoints").glob("*.ckpt")
    states = torch.load(last, weights_only=True)["optimizer_states"][0]["state"].values()
    assert (len(told), 128) in {tuple(state["exp_avg"].shape) for state in states}, "it trains"

    again = ["--model.init_from=runs/tiny_events/best", "--trainer.default_root_dir=again"]
    assert main([f"--config={TINY_EVENTS}", *SMALL, *again, "--data.events=null"]) == 0
    assert read_checkpoint("again/best").events is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.temporal.name=mean"], "events are told from the states of an RNN"),
        (["--model.temporal.name=none"], "data.events labels clips"),
        (["--data.events=data/clips/train.csv"], "no column"),
        (["--model.events_weight=-1"], "model.events_weight is -1"),
    ],
)
def test_what_cannot_tell_events_is_refused(
    options: list[str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    draw_clips(Path("data/clips"), 10)
    assert main([f"--config={TINY_EVENTS}", *SMALL, *options]) == 2
    assert said in caplog.text


@pytest.mark.slow
def test_drawn_events_are_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped config."""
    assert main([f"--config={TINY_EVENTS}", *QUICK]) == 0
    capsys.readouterr()
    model = ["--model", "runs/tiny_events/best", "--json"]
    assert captioner(["events", "--annotations", "data/clips/val_events.csv", *model]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mean"] >= 0.95
