"""The captions of a clip: shots and timelines."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from captioner.caption import Caption


@dataclass(frozen=True)
class Shot:
    """A shot of a clip.

    Attributes:
        start: Its start, in seconds since the clip's first frame.
        end: Its end, in seconds.
        caption: Its caption, without attention, as its frame isn't kept.
    """

    start: float
    end: float
    caption: Caption

    def to_dict(self) -> dict[str, Any]:
        """Return its times and its caption as plain data for JSON."""
        return {
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            **self.caption.to_dict(),
        }


@dataclass(frozen=True)
class Clip:
    """The timeline of a clip; `str(clip)` is one sentence for the whole clip.

    Attributes:
        shots: Its shots in order; each starts where the previous one ends.
        duration: Its duration in seconds.
        summary: One caption for the whole clip: that of the shot whose frame is closest to the mean
            of the features of all frames.
    """

    shots: tuple[Shot, ...]
    duration: float
    summary: Caption

    def __str__(self) -> str:
        return self.summary.text

    def to_dict(self) -> dict[str, Any]:
        """Return what `captioner caption --json` prints for a clip, except the path."""
        return {
            **self.summary.to_dict(),
            "duration": round(self.duration, 3),
            "shots": [shot.to_dict() for shot in self.shots],
        }


def merge(shots: Iterable[Shot]) -> tuple[Shot, ...]:
    """Merge adjacent shots with the same text; keep the caption of the longest."""
    merged: list[Shot] = []
    longest = 0.0
    for shot in shots:
        length = shot.end - shot.start
        if merged and merged[-1].caption.text == shot.caption.text:
            caption = shot.caption if length > longest else merged[-1].caption
            merged[-1] = replace(merged[-1], end=shot.end, caption=caption)
            longest = max(longest, length)
        else:
            merged.append(shot)
            longest = length
    return tuple(merged)
