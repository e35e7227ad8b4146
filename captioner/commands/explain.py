"""`captioner explain`: show where the model looked for each word, or words without evidence."""

import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice, tee
from typing import TYPE_CHECKING

from captioner.commands.caption import inputs, json_line
from captioner.commands.decoding import DECODING, add_decoding
from captioner.commands.model import add_model, given
from captioner.commands.parser import STANDARD_INPUT, Add, file_path
from captioner.commands.terminal import (
    check_stdout,
    note,
    print_odd_characters,
    report,
    show_warnings,
    track,
)
from captioner.errors import ConfigError, ImageError
from captioner.library.tables import escape_row

if TYPE_CHECKING:
    from captioner.explain import Evidence


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "explain",
        usage="captioner explain PHOTO... (--output FILE | --evidence) [OPTIONS]",
        operands=("PHOTO", 1, math.inf),
        help="Show where the model looked for each word, or mark words without visual evidence.",
        description="""\
Caption PHOTO (- for standard input) and show for each word which parts of the photo made
the model choose it: as a figure with a panel for each word, or as an interactive page.

With --evidence, caption photos or folders and mark, in square brackets, content words that
are about as probable without the photo: they are hallucinated more often. Several photos
print PATH, a tab and the caption.""",
        epilog="""\
examples:
  captioner explain photo.jpg --output figure.png
  captioner explain photo.jpg --output page.html
  captioner explain photo.jpg --output figure.pdf --method occlusion
  captioner explain holiday/ --evidence
  captioner explain holiday/ --evidence --json""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--output",
        type=file_path,
        metavar="FILE",
        help=".png, .pdf, .svg or .html. [required without --evidence]",
    )
    parser.add_argument(
        "--method",
        choices=("attention", "occlusion", "gradient"),
        metavar="METHOD",
        help=(
            "attention, occlusion (hides parts of the photo; for all models) or gradient (requires"
            " torch). [default: attention]"
        ),
    )
    evidence = parser.add_argument_group("evidence")
    evidence.add_argument(
        "--evidence",
        action="store_true",
        help="Mark content words without visual evidence.",
    )
    evidence.add_argument(
        "--min-evidence",
        type=float,
        metavar="NATS",
        help=(
            "Mark words whose pointwise mutual information with the photo is lower, in nats."
            " [default: 0.5]"
        ),
    )
    evidence.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object per photo, with the numbers of each word.",
    )
    add_model(parser)
    add_decoding(parser, without=["alternatives"])


def run(options: Namespace) -> int:
    """Caption a photo and show where the model looked, or mark words without evidence."""
    show_warnings()
    _check(options)
    return _mark(options) if options.evidence else _draw(options)


def _check(options: Namespace) -> None:
    """Check that the options can be combined."""
    if options.evidence:
        unused = given(options, "output", "method")
        if unused:
            raise ConfigError(f"--{next(iter(unused))} cannot be combined with --evidence.")
        return
    if options.json or options.min_evidence is not None:
        raise ConfigError(f"{'--json' if options.json else '--min-evidence'} requires --evidence.")
    if options.output is None:
        raise ConfigError(
            "Nothing to do: give --output FILE to draw a figure, or --evidence to mark words."
        )
    if len(options.operands) > 1:
        raise ConfigError(f"Unexpected argument {options.operands[1]}: a figure shows one photo.")


def _draw(options: Namespace) -> int:
    """Caption a photo and show for each word where the model looked."""
    from captioner.explain import check_output, explain
    from captioner.inference import Captioner

    (path,) = options.operands
    if os.path.exists(path) and options.output.exists() and os.path.samefile(path, options.output):
        raise ConfigError(
            f"--output {options.output} would overwrite the photo; choose another name."
        )
    check_output(options.output)
    backend: str = options.backend
    if options.method == "gradient" and backend == "auto":
        backend = "torch"
    captioner = Captioner.from_pretrained(options.model, backend=backend, device=options.device)
    try:
        image = sys.stdin.buffer.read() if path == STANDARD_INPUT else path
        explanation = explain(
            captioner, image, options.method, **given(options, "batch_size", *DECODING)
        )
    except ImageError as error:
        report(f"{'standard input' if path == STANDARD_INPUT else path}: {error.reason}")
        return 1
    explanation.save(options.output)
    print(explanation.caption.text)
    return 0


def _mark(options: Namespace) -> int:
    """Caption photos and mark words without evidence."""
    from captioner.explain.evidence import is_content

    print_odd_characters(names=True)
    check_stdout()
    paths: list[str] = options.operands
    if paths.count(STANDARD_INPUT) > 1:
        raise ConfigError("- was given twice; standard input can be read only once.")
    several = len(paths) > 1 or os.path.isdir(paths[0])
    failed = marked = content = 0

    def fail(message: str) -> None:
        nonlocal failed
        failed += 1
        report(message)

    for name, evidence in _evidence(options, several, fail):
        if isinstance(evidence, ImageError):
            fail(f"{'standard input' if name == STANDARD_INPUT else name}: {evidence.reason}")
            continue
        marked += sum(evidence.marked)
        content += sum(map(is_content, evidence.caption.words))
        if options.json:
            entry = {"path": name, **evidence.to_dict()}
            line = json_line(entry, sys.stdout.encoding)
        else:
            line = "\t".join([*[escape_row(name)] * several, evidence.text]) + "\n"
        print(line, end="", flush=True)
    if several:
        note(f"{marked:,} of {content:,} content words have no visual evidence.")
    return 1 if failed else 0


def _evidence(
    options: Namespace, shown: bool, fail: Callable[[str], None]
) -> Iterator[tuple[str, "Evidence | ImageError"]]:
    """Caption photos and find the evidence of their words, a batch at a time."""
    from captioner.explain.evidence import THRESHOLD, find_evidence
    from captioner.inference import Caption, Captioner

    captioner = Captioner.from_pretrained(
        options.model, backend=options.backend, device=options.device
    )
    threshold = THRESHOLD if options.min_evidence is None else options.min_evidence
    names, sources = tee(inputs(options.operands, lambda _: False, fail, "captioner explain"))
    decoding = given(options, "batch_size", *DECODING)
    stream = captioner.stream((source for _, source in sources), **decoding)
    shown = shown and not sys.stdout.isatty()
    with closing(stream) as results:
        pairs = track(zip(names, results, strict=False), None, shown)
        while batch := list(islice(pairs, options.batch_size)):
            captions = [result for _, result in batch if isinstance(result, Caption)]
            found = iter(
                find_evidence(captioner, captions, threshold=threshold, style=options.style)
            )
            for (name, _), result in batch:
                yield name, result if isinstance(result, ImageError) else next(found)
