"""Shots from features that are known: no network."""

import numpy as np
import pytest

from captioner.video.shots import ShotDetector, Span

A, B, C = np.eye(8, dtype=np.float32)[:3]


def spans(*features: np.ndarray, threshold: float = 0.4) -> list[Span]:
    """The shots of frames a second apart; the pixels of each frame are its number."""
    detector = ShotDetector(threshold)
    found = [
        detector.add(float(number), vector, np.full((3, 1, 1), number, np.float32))
        for number, vector in enumerate(features)
    ]
    return [span for span in [*found, detector.finish(len(features))] if span is not None]


def times(found: list[Span]) -> list[tuple[float, float]]:
    return [(span.start, span.end) for span in found]


def test_a_cut_begins_a_shot() -> None:
    assert times(spans(A, A, A, B, B, C, C, C)) == [(0, 3), (3, 5), (5, 8)]


def test_a_flash_begins_none() -> None:
    assert times(spans(A, A, B, A, A)) == [(0, 5)]


def test_the_last_frame_alone_is_no_shot() -> None:
    assert times(spans(A, A, A, B)) == [(0, 4)]


def test_a_dissolve_begins_one_shot() -> None:
    mixed = [A * (1 - share) + B * share for share in (0.25, 0.5, 0.75)]
    found = spans(A, A, A, *mixed, B, B, B)
    assert len(found) == 2
    assert 3 <= found[1].start <= 6


def test_what_changes_slowly_is_parted_where_it_has_become_something_else() -> None:
    turning = [np.cos(angle) * A + np.sin(angle) * B for angle in np.linspace(0, np.pi / 2, 60)]
    assert 1 < len(spans(*turning, threshold=0.1)) < 10
    assert len(spans(*turning[:15], threshold=0.4)) == 1


def test_no_frames_are_no_shots() -> None:
    assert spans() == []
    assert times(spans(A)) == [(0, 1)]


@pytest.mark.parametrize("count", [1, 5, 8])
def test_the_frame_that_stands_for_a_shot_is_its_medoid(count: int) -> None:
    random = np.random.default_rng(count)
    features = (A + 0.2 * random.standard_normal((count, 8))).astype(np.float32)
    (span,) = spans(*features, threshold=2.0)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = 1 - units @ units.T
    assert span.pixels[0, 0, 0] == distances.sum(axis=1).argmin()
    np.testing.assert_allclose(span.total, units.sum(axis=0), rtol=1e-5)


def test_of_a_long_shot_few_frames_are_kept() -> None:
    detector = ShotDetector()
    for number in range(1000):
        detector.add(number, A, np.zeros((3, 1, 1), np.float32))
        assert len(detector._shot._kept) <= 8  # type: ignore[union-attr]
