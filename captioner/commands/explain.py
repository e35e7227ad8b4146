"""`captioner explain`: a photo -> where the model looked, word by word."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.decoding import DECODING, add_decoding
from captioner.commands.model import add_model, given
from captioner.commands.parser import STANDARD_INPUT, Add
from captioner.commands.terminal import report, show_warnings
from captioner.errors import ConfigError, ImageError

if TYPE_CHECKING:
    pass


def declare(add: Add) -> None:
    """Say what the command takes."""
    parser = add(
        "explain",
        usage="captioner explain PHOTO --output FILE [OPTIONS]",
        operands=("PHOTO", 1, 1),
        help="Show for each word where the model looked.",
        description="""\
Caption PHOTO (- for standard input) and show for each word which parts of it made the
model choose it: a figure with a panel for each word, or a page to explore.""",
        epilog="""\
examples:
  captioner explain photo.jpg --output figure.png
  captioner explain photo.jpg --output page.html
  captioner explain photo.jpg --output figure.pdf --method occlusion""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=".png, .pdf, .svg or .html. [required]",
    )
    parser.add_argument(
        "--method",
        choices=("attention", "occlusion", "gradient"),
        metavar="METHOD",
        help=(
            "attention, occlusion (hides parts of the photo; for all models) or gradient (needs"
            " torch). [default: attention]"
        ),
    )
    add_model(parser)
    add_decoding(parser, without=["alternatives"])


def run(options: Namespace) -> int:
    """Caption a photo and show for each word where the model looked."""
    from captioner.explain import check_output, explain
    from captioner.inference import Captioner

    show_warnings()
    (path,) = options.operands
    if os.path.exists(path) and options.output.exists() and os.path.samefile(path, options.output):
        raise ConfigError(
            f"--output {options.output} would overwrite the photo; expected another name."
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
