"""The options and the output of `captioner caption` for clips."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.decoding import DECODING
from captioner.commands.model import given
from captioner.commands.parser import Parser
from captioner.commands.terminal import report
from captioner.errors import ConfigError, VideoError
from captioner.files import replacing
from captioner.library.tables import escape_row
from captioner.video.formats import VIDEO_SUFFIXES, is_clip
from captioner.video.subtitles import FORMATS, subtitles, time_span

if TYPE_CHECKING:
    from captioner.video.clip import Clip


def add_clips(parser: Parser) -> None:
    """Add `--every` and `--summary`."""
    clips = parser.add_argument_group("clips")
    clips.add_argument(
        "--every",
        type=float,
        metavar="SECONDS",
        help="Caption one frame every SECONDS, instead of shots.",
    )
    clips.add_argument(
        "--summary", action="store_true", help="Print one caption for the whole clip."
    )


def check_clips(options: Namespace, photos_only: str | None) -> None:
    """Check the options of clips before a model is loaded.

    Args:
        options: The options of the command.
        photos_only: The given option that applies only to photos, or None.

    Raises:
        ConfigError: An option is out of range, or cannot be combined with another or with a path.
    """
    paths: list[str] = options.operands
    output: Path | None = options.output
    if options.every is not None:
        from captioner.video.frames import check_every

        check_every(options.every)
    if options.every is not None and options.summary:
        raise ConfigError("--every cannot be combined with --summary.")
    if output is not None and output.suffix.lower() in VIDEO_SUFFIXES:
        raise ConfigError(
            f"--output {output} would overwrite a clip; expected a text file, such as captions.txt."
        )
    clips = [path for path in paths if is_clip(path) and not os.path.isdir(path)]
    if photos_only is not None and clips:
        raise ConfigError(
            f"{photos_only} applies to photos, not to clips. Caption clips in a separate call."
        )
    if not wants_subtitles(options):
        return
    by_name = output is not None and output.suffix.lower() == f".{options.format}"
    form = f"--output {output}" if by_name else f"--format {options.format}"
    if len(paths) != 1 or not clips:
        raise ConfigError(f"{form} writes the subtitles of one clip; expected a single clip.")
    for option in ("json", "summary", "tags"):
        if getattr(options, option):
            raise ConfigError(f"{form} cannot be combined with --{option}.")


def wants_subtitles(options: Namespace) -> bool:
    """Return whether the output is subtitles."""
    return options.format in FORMATS


def run_subtitles(options: Namespace) -> int:
    """Print the subtitles of a clip, or write them to a new file atomically.

    Returns:
        The exit status: 1 if the clip cannot be read, which is reported.

    Raises:
        OSError: The file cannot be written.
    """
    from captioner.inference import Captioner

    captioner = Captioner.from_pretrained(
        options.model, backend=options.backend, device=options.device
    )
    decoding = given(options, "batch_size", *DECODING)
    try:
        clip = captioner.caption_video(options.operands[0], every=options.every, **decoding)
    except VideoError as error:
        report(str(error))
        return 1
    text = subtitles(clip.shots, options.format)
    if options.output is None:
        print(text, end="", file=sys.stdout, flush=True)
    else:
        with replacing(options.output) as path:
            path.write_text(text, encoding="utf-8", newline="\n")
    return 0


def clip_text(name: str, clip: "Clip", options: Namespace, with_name: bool) -> str:
    """Format a clip as text: one line per shot, or its summary."""
    names = [escape_row(name)] * with_name
    parts = (
        [(names, clip.summary)]
        if options.summary
        else [([*names, time_span(shot.start, shot.end)], shot.caption) for shot in clip.shots]
    )
    lines = []
    for first, caption in parts:
        for one in caption.alternatives or [caption]:
            tags = ", ".join(f"{tag.noun} {tag.probability:.2f}" for tag in one.tags)
            lines.append("\t".join([*first, one.text, *[tags] * options.tags]))
    return "".join(f"{line}\n" for line in lines)
