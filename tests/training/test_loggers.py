"""Loggers: the files of TensorBoard and Weights & Biases in a run's folder, read back."""

import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from captioner.annotations.records import Record
from captioner.errors import ConfigError, MissingExtraError
from captioner.training.loggers import make_loggers
from captioner.training.samples import WIDTH, log_samples
from captioner.training.train import main
from tests.training.runs import SMALL, TINY


@pytest.fixture
def samples(tmp_path: Path) -> list[tuple[Record, str]]:
    records = []
    for number, size in ((3, (64, 48)), (4, (30, 90))):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", size, "teal").save(path)
        records.append(Record(number, path, ("a reference", "another")))
    return [(record, f"a caption of {record.image_id}") for record in records]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    module = pytest.importorskip("wandb")
    module.teardown()  # what it has read of the environment
    yield module
    module.teardown()  # its service is a process of its own


def test_tensorboard_alone_unless_more_is_asked_for(
    tmp_path: Path, samples: list[tuple[Record, str]]
) -> None:
    folder = tmp_path / "run"
    (logger,) = make_loggers(folder)
    assert isinstance(logger, TensorBoardLogger)
    logger.log_metrics({"val/CIDEr-D": 0.25}, 7)
    log_samples(logger, samples, 7)
    logger.finalize("success")
    events = EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/CIDEr-D")] == [(7, 0.25)]
    for number, height in ((3, 240), (4, 960)):
        (image,) = events.Images(f"samples/{number}")
        assert (image.step, image.width) == (7, WIDTH)
        assert image.height > height, "the captions are below the picture"


def test_what_is_written_while_the_process_is_in_another_folder_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard writes from a thread, while reading or saving a config changes the directory."""
    monkeypatch.chdir(tmp_path)
    (logger,) = make_loggers(Path("runs/first"))
    logger.log_metrics({"loss": 1.0}, 1)
    monkeypatch.chdir(tmp_path.parent)
    logger.log_metrics({"loss": 2.0}, 2)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "runs" / "first")).Reload()
    assert [event.value for event in events.Scalars("loss")] == [1, 2]


def test_weights_and_biases_gets_curves_and_samples_and_a_resumed_run_is_the_same(
    wandb: ModuleType, tmp_path: Path, samples: list[tuple[Record, str]]
) -> None:
    folder = tmp_path / "runs" / "first"
    tensorboard, logger = make_loggers(folder, "our captions")
    assert isinstance(tensorboard, TensorBoardLogger)
    logger.log_metrics({"val/CIDEr-D": 0.28125}, 7)
    log_samples(logger, samples, 7)
    run = logger.experiment
    assert (run.project, run.name) == ("our captions", "first")
    wandb.finish()

    (written,) = (folder / "wandb").glob("offline-run-*")
    assert written.name.endswith(run.id)
    path = written / f"run-{run.id}.wandb"  # by a process of its own, which may be behind
    for _ in range(200):
        content = path.read_bytes()
        if b"0.28125" in content:
            break
        time.sleep(0.1)
    for text in (
        "val/CIDEr-D",
        "0.28125",
        "a caption of 3 (a reference)",
        "a caption of 4 (a reference)",
    ):
        assert text.encode() in content, text
    images = [Image.open(path) for path in written.rglob("media/**/*.png")]
    assert sorted(image.size for image in images) == [(WIDTH, 240), (WIDTH, 960)]

    _, resumed = make_loggers(folder, "our captions")
    _, other = make_loggers(tmp_path / "runs" / "second", "our captions")
    assert resumed.version == run.id != other.version


def test_without_the_package_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # to import it fails
    with pytest.raises(
        MissingExtraError, match=r"Weights & Biases needs .* pip install 'captioner\[wandb\]'"
    ):
        make_loggers(tmp_path / "run", "captions")
    assert not (tmp_path / "run").exists()


def test_without_a_login_it_is_said_before_training(
    wandb: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(
        ConfigError, match=r"No API key .* Or set WANDB_MODE=offline, which sends nothing"
    ):
        make_loggers(tmp_path / "run", "captions")
    assert not (tmp_path / "run").exists()


def test_a_run_is_logged_to_weights_and_biases_if_asked(wandb: ModuleType, tmp_path: Path) -> None:
    assert main([f"--config={TINY}", *SMALL, "--trainer.max_epochs=1", "--wandb=shapes"]) == 0
    assert list(tmp_path.glob("runs/tiny/wandb/offline-run-*"))
    assert list(tmp_path.glob("runs/tiny/events.out.tfevents.*"))
