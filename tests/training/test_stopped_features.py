"""Interrupted feature computation: the results so far are kept, and the next run continues."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from captioner.annotations.records import Record
from captioner.data.features import LoadViews
from captioner.data.sampling import Key
from captioner.data.views import ImageViews
from captioner.model.encoder import Encoder
from captioner.training import feature_cache
from captioner.training.feature_cache import cached_features
from tests.training.views import COUNT, load, views_of


def test_an_interruption_costs_a_part(
    encoder: Encoder,
    records: list[Record],
    calls: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_cache, "PART", 2)

    def stop(views: ImageViews, keys: Sequence[Key]) -> Iterator[tuple[Tensor, Tensor]]:
        if keys[0] == (1, 2):
            raise KeyboardInterrupt
        yield from load(views, keys)

    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, encoder, views_of(records), stop)
    assert sum(calls) == COUNT + 2
    cached_features(tmp_path, encoder, views_of(records), load)
    assert sum(calls) == 2 * COUNT


def stop_after(batches: int, stop: Callable[[], None]) -> LoadViews:
    """Loads some batches of all parts together, then does something."""
    given = 0

    def load_some(views: ImageViews, keys: Sequence[Key]) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal given
        for batch in load(views, keys):
            if given == batches:
                stop()
            given += 1
            yield batch

    return load_some


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_computation_at_once(
    number: int,
    status: int,
    encoder: Encoder,
    records: list[Record],
    calls: list[int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_cache, "PART", 2)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped, caplog.at_level(logging.INFO, "captioner"):
        cached_features(
            tmp_path,
            encoder,
            views_of(records),
            stop_after(1, lambda: os.kill(os.getpid(), number)),
        )
    assert stopped.value.code == status
    assert "2 of 10 are cached" in caplog.text
    assert signal.getsignal(number) == before
    cached_features(tmp_path, encoder, views_of(records), load)
    assert sum(calls) == 2 * COUNT, "no image twice"


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
    told = [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("Computing features: ")
    ]
    assert len(told) == 6
    assert told[1].startswith("Computing features: 4 of 10 views of images, ")
    assert told[-1] == "Computing features: 10 of 10 views of images"
