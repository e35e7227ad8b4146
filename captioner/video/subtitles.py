"""Timelines as text: table rows, and subtitles for players and screen readers."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from captioner.video.clip import Shot

SubtitleFormat: TypeAlias = Literal["srt", "vtt"]
FORMATS: tuple[str, ...] = get_args(SubtitleFormat)

_SPAN = re.compile(r"\d{2,}:\d\d:\d\d\.\d\d-\d{2,}:\d\d:\d\d\.\d\d")


def subtitles(shots: Sequence["Shot"], form: SubtitleFormat) -> str:
    """Write the captions of shots as a file of subtitles.

    Args:
        shots: The shots.
        form: "srt" for SubRip, "vtt" for WebVTT, which browsers accept as a track.

    Returns:
        The file's text, to be written as UTF-8.
    """
    if form == "vtt":
        cues = [
            f"{_clock(shot.start)} --> {_clock(shot.end)}\n{_escape(shot.caption.text)}\n"
            for shot in shots
        ]
        return "\n".join(["WEBVTT\n", *cues])
    return "\n".join(
        f"{number}\n{_clock(shot.start, ',')} --> {_clock(shot.end, ',')}\n{shot.caption.text}\n"
        for number, shot in enumerate(shots, 1)
    )


def time_span(start: float, end: float) -> str:
    """Format the time span of a shot as `00:00:03.20-00:00:07.00`: hours, minutes and seconds."""
    return f"{_clock(start, digits=2)}-{_clock(end, digits=2)}"


def is_time_span(text: str) -> bool:
    """Return whether a text is what `time_span` writes."""
    return _SPAN.fullmatch(text) is not None


def _clock(seconds: float, point: str = ".", digits: int = 3) -> str:
    units = round(seconds * 10**digits)
    whole, rest = divmod(units, 10**digits)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{rest:0{digits}}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
