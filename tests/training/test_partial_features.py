"""Computing features that is stopped: what it has is kept, and the next one goes on with the rest."""

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from captioner.annotations.records import Record
from captioner.data.dataset import CaptionDataset
from captioner.data.features import LoadView
from captioner.model.encoder import Encoder
from captioner.training.feature_cache import cached_features
from tests.training.features import COUNT, load, views_of


def stop_after(batches: int, stop: Callable[[], None]) -> LoadView:
    """Loads some batches of all views together, then does something."""
    given = 0

    def load_some(dataset: CaptionDataset, view: int) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal given
        for batch in load(dataset, view):
            if given == batches:
                stop()
            given += 1
            yield batch

    return load_some


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("batches", "done"), [(0, 0), (1, 2), (2, 4), (3, 5), (5, 9)])
def test_an_interrupted_computation_is_kept_and_the_next_one_goes_on_with_the_rest(
    batches: int, done: int, encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    whole = cached_features(tmp_path / "whole", encoder, views_of(records), load)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path / "cache", encoder.train(), views_of(records), stop_after(batches, interrupt))
    assert encoder.training
    assert sum(calls) == done
    assert not list((tmp_path / "cache").glob("*.npy"))
    features = cached_features(tmp_path / "cache", encoder, views_of(records), load)
    assert sum(calls) == 2 * COUNT, "no image twice"
    assert features.path.read_bytes() == whole.path.read_bytes()
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == [".npy"]


def test_a_record_that_fits_no_file_is_not_believed(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    for damage in (lambda tmp, done: tmp.unlink(), lambda tmp, done: os.truncate(done, 3), shutil.copy):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            cached_features(tmp_path / "cache", encoder, views_of(records), stop_after(4, interrupt))
        (tmp,), (done,) = ((tmp_path / "cache").glob(f"*.{name}") for name in ("tmp", "done"))
        damage(tmp, done)
        calls.clear()
        features = cached_features(tmp_path / "cache", encoder, views_of(records), load)
        assert sum(calls) == 2 * COUNT
        features.path.unlink()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_computation_at_once(
    number: int, status: int, encoder: Encoder, records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped, caplog.at_level(logging.INFO, "captioner"):
        cached_features(tmp_path, encoder, views_of(records), stop_after(1, lambda: os.kill(os.getpid(), number)))
    assert stopped.value.code == status
    assert "2 of 10 are kept" in caplog.text
    assert signal.getsignal(number) == before


def test_an_unreadable_image_is_tried_again_and_the_others_are_not(
    encoder: Encoder, records: list[Record], calls: list[int], tmp_path: Path
) -> None:
    records[1].path.write_text("no image")
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path / "cache", encoder, views_of(records), stop_after(4, interrupt))
    features = cached_features(tmp_path / "cache", encoder, views_of(records), load)
    assert sum(calls) == 2 * (COUNT - 1)
    assert [bool(np.isnan(features[1, index]).all()) for index in range(COUNT)] == [False, True, False, False, False]


def test_how_far_it_is_stands_in_a_line_a_minute(
    encoder: Encoder,
    records: list[Record],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("captioner.progress.EVERY", 0)
    with caplog.at_level(logging.INFO, "captioner"):
        cached_features(tmp_path, encoder, views_of(records), load)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Computing features: ")]
    assert len(told) == 6
    assert told[1].startswith("Computing features: 4 of 10 views of images, ")
    assert told[-1] == "Computing features: 10 of 10 views of images"
