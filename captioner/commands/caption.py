"""`captioner caption`: caption images and clips."""

import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.captions_file import CaptionsFile, Run, check_output, format_of
from captioner.commands.clips import (
    add_clips,
    check_clips,
    clip_text,
    run_subtitles,
    wants_subtitles,
)
from captioner.commands.decoding import DECODING, add_decoding
from captioner.commands.model import add_model, given
from captioner.commands.parser import STANDARD_INPUT, Add, file_path
from captioner.commands.photo_library import (
    add_photo_library,
    check_page,
    check_photo_library,
    photo_stores,
    save_in,
)
from captioner.commands.terminal import (
    check_stdout,
    note,
    print_odd_characters,
    report,
    show_warnings,
    track,
)
from captioner.errors import ConfigError, ImageError
from captioner.library.tables import (
    check_parquet,
    csv_header,
    csv_rows,
    escape_row,
    rows_beside,
    write_parquet,
)
from captioner.video.formats import is_clip
from captioner.video.subtitles import FORMATS as SUBTITLES

if TYPE_CHECKING:
    from captioner.explain.saving import AttentionFolder
    from captioner.inference import Caption, Captioner
    from captioner.library.album import Album
    from captioner.library.sidecars import PhotoStore
    from captioner.video.clip import Clip

CSV, PARQUET = "csv", "parquet"
ROWS = ("text", "jsonl", CSV)
FORMATS = (*ROWS, PARQUET, *SUBTITLES)
"""The values of `--format`; those in `ROWS` are written image by image."""


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "caption",
        usage="captioner caption [OPTIONS] PATH...",
        operands=("PATH", 1, math.inf),
        help="Caption images and clips.",
        description="""\
Caption images and clips.

PATH is an image, a clip, a folder of them, or - for standard input. One image prints its
caption alone; several, or a folder, print PATH, a tab and the caption. A tab, a newline and a
backslash in PATH are printed as \\t, \\n and \\\\. A clip prints one line per shot: PATH, the
time range and the caption, separated by tabs.

With --output, running the same command again resumes: captions in FILE are kept, and failed
images are tried again. FILE.run.json records how FILE was made.

With --xmp or --embed, photos that already have a caption are skipped.""",
        epilog="""\
examples:
  captioner caption photo.jpg
  captioner caption holiday/ --output captions.tsv
  captioner caption photo.jpg --alternatives 3 --json
  captioner caption photo.jpg --include camera
  captioner caption photo.jpg --tags
  captioner caption holiday/ --min-confidence 0.5
  captioner caption holiday/ --xmp
  captioner caption holiday/ --html album.html
  captioner caption clip.mp4 --format srt --output clip.srt
  captioner caption - < photo.jpg""",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="Print one JSON object per image.")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help=(
            f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}; jsonl equals --json, parquet requires"
            " --output. [default: what the suffix of --output says, otherwise text]"
        ),
    )
    parser.add_argument(
        "--tags",
        action="store_true",
        help="Print tags, nouns for what is in the image, after the caption.",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="P",
        help=(
            "Leave out captions with a lower confidence, and list their images on stderr; adds a"
            " last column to tab-separated rows."
        ),
    )
    parser.add_argument(
        "--output",
        type=file_path,
        metavar="FILE",
        help="Write captions to FILE as they are made, or resume it.",
    )
    parser.add_argument(
        "--save-attention",
        type=Path,
        metavar="DIR",
        help="Write one .npz per image to DIR: words, attention, log_probs.",
    )
    parser.add_argument(
        "--html",
        type=file_path,
        metavar="FILE",
        help="Write an HTML album to FILE, with photos, captions and a search field.",
    )
    add_photo_library(parser)
    add_clips(parser)
    add_model(parser)
    add_decoding(parser)


def run(options: Namespace) -> int:
    """Caption images and clips."""
    show_warnings()
    print_odd_characters(names=True)
    paths: list[str] = options.operands
    _check_format(options)
    output = _rows_file(options)
    _check_paths(paths, output, resumed=not wants_subtitles(options))
    several = len(paths) > 1 or os.path.isdir(paths[0])
    check_photo_library(options)
    if options.html is not None:
        check_page(options.html, paths)
    photos_only = _photos_only(options)
    check_clips(options, photos_only)
    if wants_subtitles(options):
        return run_subtitles(options)
    several = several or (is_clip(paths[0]) and not options.summary)
    failed = captioned = unsure = left_out = 0

    def fail(message: str) -> None:
        nonlocal failed
        failed += 1
        report(message)

    from captioner.inference import NO_TAGS, Caption, Captioner
    from captioner.video.mixed import stream_mixed

    captioner = Captioner.from_pretrained(
        options.model, backend=options.backend, device=options.device
    )
    if options.tags and captioner.tags is None:
        raise ConfigError(NO_TAGS)
    least: float | None = options.min_confidence
    if least is not None:
        _check_confidence(least, captioner, options)
    # Only where it is recorded: hashing a model takes as long as a caption.
    described = cache(partial(describe_run, options, captioner, several))
    file = None if output is None else open_captions_file(output, described(), paths)
    attention = _attention_folder(options.save_attention)
    stores = photo_stores(options, described)
    album = _album(options.html, paths)

    def is_done(name: str) -> bool:
        nonlocal left_out
        done = (
            (file is not None or bool(stores))
            and album is None
            and (file is None or name in file)
            and (attention is None or attention.holds(name))
            and all(store.holds(name) for store in stores)
        )
        left_out += done
        return done

    names, sources = tee(inputs(paths, is_done, fail, photos_only))
    decoding = given(options, "batch_size", *DECODING)
    first = len(file) if file is not None else 0  # the next random number when resuming
    given_sources = (source for _, source in sources)
    stream = stream_mixed(
        captioner, given_sources, every=options.every, first_image=first, **decoding
    )
    if file is None and options.format == CSV:
        print(csv_header(), end="")
    # Open the output only after all checks of the call.
    with closing(stream) as results, nullcontext() if file is None else file:
        total = None if any(map(os.path.isdir, paths)) or first else len(paths)
        shown = several and not (file is None and sys.stdout.isatty())
        for (name, _), result in track(zip(names, results, strict=False), total, shown):
            called = "standard input" if name == STANDARD_INPUT else name
            if isinstance(result, ImageError):
                fail(f"{called}: {result.reason}")
                continue
            kept = True
            if isinstance(result, Caption):
                captioned += 1
                kept = least is None or _is_sure(result, least)
                if not kept:
                    unsure += 1
                    note(f"{called}: left out (confidence {result.confidence:.3f})")
                else:
                    _keep_elsewhere(name, result, attention, stores, album, fail)
            if file is None:
                text = rows_of(name, result, options, several, sys.stdout.encoding, kept)
                print(text, end="", flush=True)
            elif name not in file:
                file.write(name, rows_of(name, result, options, several, "utf-8", kept))
    if unsure:
        note(f"Left out {unsure:,} of {captioned:,} captions: confidence below {least:g}.")
    if stores and left_out:
        note(f"Skipped {_images(left_out)}, captioned already.")
    if album is not None:
        album.write(options.html)
    if options.format == PARQUET:
        write_parquet(rows_beside(options.output), options.output)
    return 1 if failed else 0


def _keep_elsewhere(
    name: str,
    caption: "Caption",
    attention: "AttentionFolder | None",
    stores: Sequence["PhotoStore"],
    album: "Album | None",
    fail: Callable[[str], None],
) -> None:
    """Save a photo's caption to everything but the rows: attention, photo stores, album."""
    called = "standard input" if name == STANDARD_INPUT else name
    if attention is not None:
        try:
            attention.save(None if name == STANDARD_INPUT else name, caption)
        except OSError as error:
            fail(f"{called}: cannot save its attention ({error.strerror or error})")
    if stores:
        save_in(stores, name, caption, fail)
    if album is not None:
        try:
            album.add(name, caption)
        except ImageError as error:
            fail(f"{called}: {error.reason}")


def _is_sure(caption: "Caption", least: float) -> bool:
    return caption.confidence is None or caption.confidence >= least


def _check_format(options: Namespace) -> None:
    if options.format is None and not options.json:
        options.format = format_of(options.output, FORMATS)
    if options.json and options.format not in (None, "jsonl"):
        raise ConfigError(f"--json cannot be combined with --format {options.format}.")
    options.json = options.json or options.format in ("jsonl", PARQUET)
    if options.format == PARQUET:
        if options.output is None:
            raise ConfigError("--format parquet requires --output FILE: it cannot be printed.")
        check_parquet()


def _rows_file(options: Namespace) -> Path | None:
    """Return where rows are written; those of a Parquet file go to a JSON Lines file first."""
    output: Path | None = options.output
    if output is None or options.format != PARQUET:
        return output
    rows = rows_beside(output)
    if output.exists() and not rows.exists():
        raise ConfigError(
            f"{output} already exists and was not written by `captioner caption` (there is no"
            f" {rows.name} next to it), so it is not overwritten. Choose another file."
        )
    return rows


def _check_paths(paths: list[str], output: Path | None, *, resumed: bool) -> None:
    """Check the paths before anything runs."""
    if paths.count(STANDARD_INPUT) > 1:
        raise ConfigError("- was given twice; standard input can be read only once.")
    for path in paths:
        if not path:
            raise ConfigError("A PATH is empty; expected an image, a clip or a folder.")
        if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(f"{path}: the folder cannot be read (permission denied).")
    if output is None:
        check_stdout()
    else:
        check_output(output, paths, resumed=resumed)


def _check_confidence(least: float, captioner: "Captioner", options: Namespace) -> None:
    """Check that --min-confidence is in range, and that captions will have a confidence."""
    if not 0 <= least <= 1:
        raise ConfigError(f"--min-confidence is {least}; expected a probability between 0 and 1.")
    captioner.check_confidence(**given(options, *DECODING))


def describe_run(options: Namespace, captioner: "Captioner", several: bool) -> Run:
    """Describe the properties that all captions of this call share."""
    from captioner.checkpoint import fingerprint

    decoding = captioner.decoding.changed(given(options, *DECODING))
    alone = not several and not options.json and options.format != CSV
    form = "table" if several else "caption alone"
    form = f"{form} with tags" if options.tags else form
    return Run(
        form="JSON lines" if options.json else "CSV" if options.format == CSV else form,
        folder=os.getcwd(),
        models=tuple(map(fingerprint, options.model or ["bundled"])),
        decoding=asdict(decoding) | given(options, "min_confidence") | _of_clips(options),
        photo=options.operands[0] if alone else None,
    )


def open_captions_file(output: Path, run: Run, inputs: list[str]) -> CaptionsFile:
    """Open the captions file, and report the captions that it already has."""
    file = CaptionsFile(output, run, inputs)
    if len(file):
        note(f"Resuming {output}, which has captions of {_images(len(file))}.")
    return file


def _images(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"


def _of_clips(options: Namespace) -> dict[str, Any]:
    """Return the given options that change the rows of clips."""
    return given(options, "every") | ({"summary": True} if options.summary else {})


def inputs(
    paths: Iterable[str],
    is_done: Callable[[str], bool],
    fail: Callable[[str], None],
    photos_only: str | None,
) -> Iterator[tuple[str, str | Path | bytes]]:
    """Yield the name and the source of each image that isn't done, lazily."""
    from captioner.video.formats import find_media

    for path in paths:
        if path == STANDARD_INPUT:
            try:
                content = sys.stdin.buffer.read()
            except OSError as error:
                fail(f"standard input: cannot be read ({error.strerror or error})")
            else:
                yield path, content
        elif os.path.isdir(path):
            count = 0
            found = find_media(path, photos_only=photos_only)
            for count, image in enumerate(found, start=1):  # noqa: B007
                if not is_done(str(image)):
                    yield str(image), image
            if not count:
                fail(f"{path}: the folder has no images")
        elif not is_done(path):
            yield path, path


def _attention_folder(folder: Path | None) -> "AttentionFolder | None":
    if folder is None:
        return None
    from captioner.explain.saving import AttentionFolder

    return AttentionFolder(folder)


def _photos_only(options: Namespace) -> str | None:
    """Return the first given option that applies only to photos, or None."""
    given_ones = {
        "--save-attention": options.save_attention,
        "--html": options.html,
        "--xmp": options.xmp,
        "--embed": options.embed,
        "--min-confidence": options.min_confidence is not None,
        f"--format {options.format}": options.format in (CSV, PARQUET),
    }
    return next((name for name, value in given_ones.items() if value), None)


def _album(page: Path | None, inputs: list[str]) -> "Album | None":
    if page is None:
        return None
    from captioner.library.album import Album

    return Album(", ".join(os.path.basename(os.path.abspath(path)) for path in inputs[:3]))


def rows_of(
    name: str,
    caption: "Caption | Clip",
    options: Namespace,
    with_name: bool,
    encoding: str | None,
    kept: bool = True,
) -> str:
    """Format the lines of an image or a clip.

    If the caption is not kept, only its confidence and, in a table, its path are shown.
    """
    if options.json:
        entry = {"path": name, **caption.to_dict()}
        if not kept:
            entry |= {"caption": None, "log_prob": None, "alternatives": []}
        return json_line(entry, encoding)
    from captioner.video.clip import Clip

    if isinstance(caption, Clip):
        return clip_text(name, caption, options, with_name)
    if not kept:
        if not with_name and options.format != CSV:
            return ""
        caption = replace(caption, text="", alternatives=())
    if options.format == CSV:
        return csv_rows(name, caption)
    lines = []
    with_confidence = with_name and options.min_confidence is not None
    for one in caption.alternatives or [caption]:
        tags = ", ".join(f"{tag.noun} {tag.probability:.2f}" for tag in one.tags)
        confidence = "" if one.confidence is None else f"{one.confidence:.3f}"
        fields = [
            *[escape_row(name)] * with_name,
            one.text,
            *[tags] * options.tags,
            *[confidence] * with_confidence,
        ]
        lines.append("\t".join(fields))
    return "".join(f"{line}\n" for line in lines)


def json_line(entry: Mapping[str, Any], encoding: str | None) -> str:
    """Format an object as a line of JSON; characters that the encoding lacks are escaped.

    Args:
        entry: The object.
        encoding: The encoding; None, as that of a stream in memory, for UTF-8.
    """
    line = json.dumps(entry, ensure_ascii=False)
    try:
        line.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        line = json.dumps(entry)
    return f"{line}\n"
