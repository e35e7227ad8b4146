"""What is written about a clip."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from captioner.caption import Caption


@dataclass(frozen=True)
class Shot:
    """A part of a clip that shows the same.

    Attributes:
        start: When it begins, in seconds since the clip's first frame.
        end: When it ends, in seconds.
        caption: What it shows; without attention, as its frame isn't kept.
    """

    start: float
    end: float
    caption: Caption

    def to_dict(self) -> dict[str, Any]:
        """Give its times and its caption, fit for JSON."""
        return {
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            **self.caption.to_dict(),
        }


@dataclass(frozen=True)
class Clip:
    """The timeline of a clip; `str(clip)` is one sentence for all of it.

    Attributes:
        shots: Its shots in their order; each begins where the one before ends.
        duration: How long it lasts, in seconds.
        summary: One caption for the whole clip: that of the shot whose frame is nearest the mean of
            the features of all frames.
    """

    shots: tuple[Shot, ...]
    duration: float
    summary: Caption

    def __str__(self) -> str:
        return self.summary.text

    def to_dict(self) -> dict[str, Any]:
        """Give what `captioner caption --json` prints of a clip, but for the path."""
        return {
            **self.summary.to_dict(),
            "duration": round(self.duration, 3),
            "shots": [shot.to_dict() for shot in self.shots],
        }


def merge(shots: Iterable[Shot]) -> tuple[Shot, ...]:
    """Make one shot of neighbours with the same caption; the caption is that of the longest."""
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
