"""`captioner caption`: images -> captions."""

import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from captioner.commands.decoding import DECODING, add_decoding
from captioner.commands.model import add_model, given
from captioner.commands.parser import STANDARD_INPUT, Add
from captioner.commands.terminal import print_odd_characters, report, show_warnings, track
from captioner.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from captioner.explain.saving import AttentionFolder
    from captioner.inference import Caption


def declare(add: Add) -> None:
    """Say what the command takes."""
    parser = add(
        "caption",
        usage="captioner caption [OPTIONS] PATH...",
        operands=("PATH", 1, math.inf),
        help="Caption images.",
        description="""\
Caption images.

PATH is an image, a folder of images, or - for standard input. One image prints its
caption alone; several, or a folder, print PATH, a tab and the caption.""",
        epilog="""\
examples:
  captioner caption photo.jpg
  captioner caption holiday/ --output captions.tsv
  captioner caption photo.jpg --alternatives 3 --json
  captioner caption photo.jpg --include camera
  captioner caption photo.jpg --tags
  captioner caption - < photo.jpg""",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="Print a JSON object per image.")
    parser.add_argument("--tags", action="store_true", help="Print what is recognised in the image after its caption.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Write captions there, as they come.")
    parser.add_argument(
        "--save-attention", type=Path, metavar="DIR", help="Write an .npz per image: words, attention, log_probs."
    )
    add_model(parser)
    add_decoding(parser)


def run(options: Namespace) -> int:
    """Caption images."""
    show_warnings()
    paths: list[str] = options.operands
    output: Path | None = options.output
    _check_paths(paths, output)
    folders = any(os.path.isdir(path) for path in paths)
    several = folders or len(paths) > 1
    failed = 0

    def fail(message: str) -> None:
        nonlocal failed
        failed += 1
        report(message)

    # What UTF-8 cannot hold are odd bytes of a file name; they pass as they are, but JSON needs an escape.
    errors = "backslashreplace" if options.json else "surrogateescape"
    print_odd_characters(errors)
    with output.open("w", encoding="utf-8", errors=errors) if output else nullcontext(sys.stdout) as file:
        from captioner.inference import NO_TAGS, Captioner

        captioner = Captioner.from_pretrained(options.model, backend=options.backend, device=options.device)
        if options.tags and captioner.tags is None:
            raise ConfigError(NO_TAGS)
        attention = _attention_folder(options.save_attention)
        names, sources = tee(_inputs(paths, fail))
        with closing(captioner.stream((s for _, s in sources), **given(options, "batch_size", *DECODING))) as results:
            pairs = zip(names, results, strict=False)
            for (name, _), result in track(pairs, None if folders else len(paths), several and not file.isatty()):
                if isinstance(result, ImageError):
                    fail(f"{'standard input' if name == STANDARD_INPUT else name}: {result.reason}")
                else:
                    if attention is not None:
                        attention.save(None if name == STANDARD_INPUT else name, result)
                    _write(file, name, result, as_json=options.json, with_name=several, with_tags=options.tags)
    return 1 if failed else 0


def _check_paths(paths: list[str], output: Path | None) -> None:
    """Find what is wrong with the call before anything runs."""
    from captioner.images import IMAGE_SUFFIXES

    if paths.count(STANDARD_INPUT) > 1:
        raise ConfigError("- is given twice; standard input can be read only once.")
    for path in paths:
        if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(f"{path}: the folder may not be read (permission denied).")
    if output is not None and output.suffix.lower() in IMAGE_SUFFIXES:
        raise ConfigError(f"--output {output} would overwrite an image; expected a text file, such as captions.txt.")


def _inputs(paths: Iterable[str], fail: Callable[[str], None]) -> Iterator[tuple[str, str | Path | bytes]]:
    """The name and the source of each image, found as they are needed."""
    from captioner.images import find_images

    for path in paths:
        if path == STANDARD_INPUT:
            yield path, sys.stdin.buffer.read()
        elif os.path.isdir(path):
            count = 0
            for count, image in enumerate(find_images(path), start=1):  # noqa: B007
                yield str(image), image
            if not count:
                fail(f"{path}: the folder has no images")
        else:
            yield path, path


def _attention_folder(folder: Path | None) -> "AttentionFolder | None":
    if folder is None:
        return None
    from captioner.explain.saving import AttentionFolder

    return AttentionFolder(folder)


def _write(file: TextIO, name: str, caption: "Caption", *, as_json: bool, with_name: bool, with_tags: bool) -> None:
    if as_json:
        print(json.dumps({"path": name, **caption.to_dict()}, ensure_ascii=False), file=file, flush=True)
        return
    for one in caption.alternatives or [caption]:
        tags = ", ".join(f"{tag.noun} {tag.probability:.2f}" for tag in one.tags)
        print(*[name] * with_name, one.text, *[tags] * with_tags, sep="\t", file=file, flush=True)
