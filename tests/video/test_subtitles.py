"""Subtitles, as FFmpeg reads them."""

from pathlib import Path

import pytest

from captioner.caption import Caption
from captioner.video.clip import Shot, merge
from captioner.video.subtitles import is_time_span, subtitles, time_span

TEXTS = ("a dog on grass", "fish & chips", "the sea")
TIMES = ((0.0, 3.2), (3.2, 3661.04), (3661.04, 3662.0))


def shot(text: str, start: float, end: float, log_prob: float = -1.0) -> Shot:
    return Shot(start, end, Caption(text, tuple(text.split()), log_prob, ()))


SHOTS = [shot(text, *span) for text, span in zip(TEXTS, TIMES, strict=True)]


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_ffmpeg_reads_what_was_written(tmp_path: Path, form) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / f"clip.{form}"
    path.write_text(subtitles(SHOTS, form), encoding="utf-8")
    with av.open(str(path)) as container:
        (stream,) = container.streams.subtitles
        read = []
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            text = b"".join(line.dialogue for line in packet.decode()).decode()
            start = float(packet.pts * packet.time_base)
            read.append((text, start, start + float(packet.duration * packet.time_base)))
    assert [text for text, *_ in read] == list(TEXTS)
    assert [tuple(span) for _, *span in read] == [pytest.approx(span) for span in TIMES]


def test_webvtt_escapes_what_it_gives_a_meaning() -> None:
    assert "a &lt;b&gt; &amp; c" in subtitles([shot("a <b> & c", 0, 1)], "vtt")


def test_times_in_tables() -> None:
    assert time_span(3.2, 7) == "00:00:03.20-00:00:07.00"
    assert time_span(59.999, 36000.004) == "00:01:00.00-10:00:00.00"
    assert all(is_time_span(time_span(start, start + 7)) for start in (0, 59.999, 36000.004, 1e6))
    assert not any(map(is_time_span, ["", "a clock at 00:00:03.20-00:00:07.00", "00:00:03.20"]))


def test_neighbours_with_the_same_caption_are_one_with_that_of_the_longest() -> None:
    shots = [shot("a", 0, 1, -1), shot("a", 1, 4, -2), shot("b", 4, 5), shot("a", 5, 6, -3)]
    merged = merge(shots)
    assert [(one.start, one.end, one.caption.text) for one in merged] == [
        (0, 4, "a"),
        (4, 5, "b"),
        (5, 6, "a"),
    ]
    assert merged[0].caption.log_prob == -2
