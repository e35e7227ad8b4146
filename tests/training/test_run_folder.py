"""A run's folder is never what the run reads, and one that cannot be written is a line."""

import errno
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn

from captioner.errors import ConfigError
from captioner.training import train
from captioner.training.resuming import keep_settled


def config(*paths: Path, init_from: str | None = None) -> Namespace:
    """What of a parsed config says what is read."""
    return Namespace(config=list(paths), model=Namespace(init_from=init_from))


def test_a_new_run_writes_over_nothing_that_it_reads(tmp_path: Path) -> None:
    (tmp_path / "run" / "best").mkdir(parents=True)
    own = tmp_path / "run" / "config.yaml"
    own.touch()
    other = tmp_path / "other.yaml"
    other.touch()
    (tmp_path / "link.yaml").symlink_to(own)
    train._check_inputs(tmp_path / "run", config(other, init_from="bundled"))
    train._check_inputs(tmp_path / "new", config(own, init_from=str(tmp_path / "run" / "best")))
    for path in (own, tmp_path / "link.yaml"):
        with pytest.raises(ConfigError, match="its own config"):
            train._check_inputs(tmp_path / "run", config(other, path))
    with pytest.raises(ConfigError, match="which it starts from"):
        train._check_inputs(
            tmp_path / "run", config(other, init_from=str(tmp_path / "run" / "best"))
        )


@pytest.mark.parametrize("kept", ["best", "checkpoints/last.ckpt"])
def test_a_new_run_does_not_replace_an_earlier_ones_result(kept: str, tmp_path: Path) -> None:
    (tmp_path / kept).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"already contains a run|result of an earlier run"):
        train._begin_run(tmp_path, "best")
    assert [path.name for path in tmp_path.iterdir()] == [Path(kept).parts[0]]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_a_line(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(number, "no", "/disk/run")

    monkeypatch.setattr(train, "TrainCLI", refuse)
    assert train.main([]) == 2
    (record,) = caplog.records
    assert record.message.startswith("error: /disk/run: no. Choose a writable folder for the run")


def test_only_lightnings_errors_are_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those are of options; a traceback says where another one, a bug of ours, comes from."""
    monkeypatch.setattr(train, "TrainCLI", lambda *args, **kwargs: Trainer(strategy="none"))
    assert train.main([]) == 2
    assert "invalid strategy name" in caplog.records[-1].message

    def stop_early(*args: object, **kwargs: object) -> None:
        trainer = Trainer(logger=False)
        trainer.state.fn = TrainerFn.FITTING
        stopping = EarlyStopping("val/cider", check_on_train_epoch_end=True)
        stopping.on_train_epoch_end(trainer, LightningModule())

    monkeypatch.setattr(train, "TrainCLI", stop_early)
    assert train.main([]) == 2
    assert "metric `val/cider` which is not available" in caplog.records[-1].message

    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(train, "TrainCLI", fail)
    with pytest.raises(ValueError, match="ours"):
        train.main([])


@pytest.mark.parametrize(
    ("option", "was", "now", "kept"),
    [
        ("model.init_from", "old", "new", "new"),  # it has moved
        ("model.init_from", "old", "gone", "old"),
        ("model.init_from", "other", "new", "other"),
        ("model.init_from", "bundled", "new", "bundled"),
        ("model.init_from", None, "new", None),
        ("model.weights", "old.pth", "new", "new"),
        ("model.weights", "in1k", "new", "in1k"),  # the name of weights
        ("model.learning_rate", 1e-3, 2e-3, 1e-3),
    ],
)
def test_what_a_run_began_with_holds_when_it_is_resumed_unless_it_has_moved(
    option: str,
    was: object,
    now: object,
    kept: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("new", "other", "run/checkpoints"):
        Path(name).mkdir(parents=True)
    section, key = option.split(".")
    Path("run/config.yaml").write_text(yaml.safe_dump({section: {} if was is None else {key: was}}))
    resumed = Namespace()
    resumed[option] = now
    keep_settled(resumed, Path("run/checkpoints/last.ckpt"), ("model.init_from", "best"))
    assert resumed[option] == kept
    assert bool(caplog.records) == (kept == was)
