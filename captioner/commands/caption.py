"""`captioner caption`: images and clips -> captions."""

import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.captions_file import CaptionsFile, Run, check_output, escape, fingerprint
from captioner.commands.clips import (
    add_clips,
    check_clips,
    clip_text,
    run_subtitles,
    wants_subtitles,
)
from captioner.commands.decoding import DECODING, add_decoding
from captioner.commands.model import add_model, given
from captioner.commands.parser import STANDARD_INPUT, Add
from captioner.commands.terminal import (
    check_stdout,
    note,
    print_odd_characters,
    report,
    show_warnings,
    track,
)
from captioner.errors import ConfigError, ImageError
from captioner.video.formats import is_clip

if TYPE_CHECKING:
    from captioner.explain.saving import AttentionFolder
    from captioner.inference import Caption, Captioner
    from captioner.video.clip import Clip


def declare(add: Add) -> None:
    """Say what the command takes."""
    parser = add(
        "caption",
        usage="captioner caption [OPTIONS] PATH...",
        operands=("PATH", 1, math.inf),
        help="Caption images and clips.",
        description="""\
Caption images and clips.

PATH is an image, a clip, a folder of them, or - for standard input. One image prints its
caption alone; several, or a folder, print PATH, a tab and the caption. A tab, a new line and a
backslash in PATH are printed as \\t, \\n and \\\\. A clip prints a line for each of its shots:
PATH, when it is shown, and the caption, with tabs between.

With --output, the same call goes on where an earlier one was stopped: what FILE has is
not captioned again, what failed is tried again. FILE.run.json says how FILE was made.""",
        epilog="""\
examples:
  captioner caption photo.jpg
  captioner caption holiday/ --output captions.tsv
  captioner caption photo.jpg --alternatives 3 --json
  captioner caption photo.jpg --include camera
  captioner caption photo.jpg --tags
  captioner caption clip.mp4 --format srt --output clip.srt
  captioner caption - < photo.jpg""",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="Print a JSON object per image.")
    parser.add_argument(
        "--tags",
        action="store_true",
        help="Print what is recognised in the image after its caption.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="Write captions there, as they come, or go on with them.",
    )
    parser.add_argument(
        "--save-attention",
        type=Path,
        metavar="DIR",
        help="Write an .npz per image: words, attention, log_probs.",
    )
    add_clips(parser)
    add_model(parser)
    add_decoding(parser)


def run(options: Namespace) -> int:
    """Caption images and clips."""
    show_warnings()
    print_odd_characters(names=True)
    paths: list[str] = options.operands
    output: Path | None = options.output
    _check_paths(paths, output)
    check_clips(options)
    if wants_subtitles(options):
        return run_subtitles(options)
    timeline = is_clip(paths[0]) and not options.summary
    several = len(paths) > 1 or os.path.isdir(paths[0]) or timeline
    failed = 0

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
    file = None if output is None else _captions_file(output, options, captioner, several)
    attention = _attention_folder(options.save_attention)

    def is_done(name: str) -> bool:
        return file is not None and name in file and (attention is None or attention.holds(name))

    names, sources = tee(_inputs(paths, is_done, fail, clips=attention is None))
    decoding = given(options, "batch_size", *DECODING)
    first = len(file) if file is not None else 0  # those before were drawn with the numbers before
    images = (source for _, source in sources)
    stream = stream_mixed(captioner, images, every=options.every, first_image=first, **decoding)
    # The file is opened now that all that can be wrong with the call has been said.
    with closing(stream) as results, nullcontext() if file is None else file:
        total = None if any(map(os.path.isdir, paths)) or first else len(paths)
        shown = several and not (file is None and sys.stdout.isatty())
        for (name, _), result in track(zip(names, results, strict=False), total, shown):
            called = "standard input" if name == STANDARD_INPUT else name
            if isinstance(result, ImageError):
                fail(f"{called}: {result.reason}")
                continue
            if attention is not None and isinstance(result, Caption):
                try:
                    attention.save(None if name == STANDARD_INPUT else name, result)
                except OSError as error:
                    fail(f"{called}: its attention cannot be saved ({error.strerror or error})")
            if file is None:
                print(
                    _text(name, result, options, several, sys.stdout.encoding), end="", flush=True
                )
            elif name not in file:
                file.write(name, _text(name, result, options, several, "utf-8"))
    return 1 if failed else 0


def _check_paths(paths: list[str], output: Path | None) -> None:
    """Find what is wrong with the call before anything runs."""
    if paths.count(STANDARD_INPUT) > 1:
        raise ConfigError("- is given twice; standard input can be read only once.")
    for path in paths:
        if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(f"{path}: the folder may not be read (permission denied).")
    if output is None:
        check_stdout()
    else:
        check_output(output, paths)


def _captions_file(
    output: Path, options: Namespace, captioner: "Captioner", several: bool
) -> CaptionsFile:
    """The file of captions, which says what is there already."""
    from captioner.checkpoint import BUNDLED
    from captioner.decoding import DecodingOptions

    decoding = DecodingOptions.from_dict(captioner.decoding.to_dict() | given(options, *DECODING))
    alone = not several and not options.json
    form = "table" if several else "caption alone"
    run = Run(
        form="JSON lines" if options.json else f"{form} with tags" if options.tags else form,
        folder=os.getcwd(),
        models=tuple(map(fingerprint, options.model or [BUNDLED])),
        decoding=asdict(decoding) | _of_clips(options),
        photo=options.operands[0] if alone else None,
    )
    file = CaptionsFile(output, run, options.operands)
    if len(file):
        note(f"{output} has captions of {len(file):,} images already, which are kept.")
    return file


def _of_clips(options: Namespace) -> dict[str, Any]:
    """What changes the rows of clips, as far as it was asked for."""
    return given(options, "every") | ({"summary": True} if options.summary else {})


def _inputs(
    paths: Iterable[str],
    is_done: Callable[[str], bool],
    fail: Callable[[str], None],
    *,
    clips: bool,
) -> Iterator[tuple[str, str | Path | bytes]]:
    """The name and the source of each image that isn't done, found as they are needed."""
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
            for count, image in enumerate(find_media(path, clips=clips), start=1):  # noqa: B007
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


def _text(
    name: str,
    caption: "Caption | Clip",
    options: Namespace,
    with_name: bool,
    encoding: str,
) -> str:
    """What is printed of an image or a clip: lines. JSON has escapes for what an encoding lacks."""
    if options.json:
        entry = {"path": name, **caption.to_dict()}
        line = json.dumps(entry, ensure_ascii=False)
        try:
            line.encode(encoding)
        except UnicodeEncodeError:
            line = json.dumps(entry)
        return f"{line}\n"
    from captioner.video.clip import Clip

    if isinstance(caption, Clip):
        return clip_text(name, caption, options, with_name)
    lines = []
    for one in caption.alternatives or [caption]:
        tags = ", ".join(f"{tag.noun} {tag.probability:.2f}" for tag in one.tags)
        lines.append("\t".join([*[escape(name)] * with_name, one.text, *[tags] * options.tags]))
    return "".join(f"{line}\n" for line in lines)
