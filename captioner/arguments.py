"""What the commands take: their options and help, on the standard library alone, so that help takes a blink."""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from captioner._version import __version__

STANDARD_INPUT = "-"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Args:
        argv: What follows `captioner`.

    Returns:
        The options by name, as `command` the command's name, and as `operands` its arguments that are no options.

    Raises:
        SystemExit: Help or version were asked for and are printed (status 0), or the call is wrong, and stderr says why
            (status 2).
    """
    parser = _Parser(
        prog="captioner",
        usage="captioner COMMAND [OPTIONS]",
        description="Describe photos in a sentence.",
        epilog="More about a command: captioner COMMAND --help",
    )
    parser.add_argument(
        "--version", action="version", version=f"captioner {__version__}", help="Show the version and exit."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for declare in (_caption, _evaluate, _explain, _demo, _export, _info):
        declare(commands.add_parser)
    if not argv:
        parser.print_help(sys.stderr)
        parser.exit(2)
    first, *rest = argv
    if first in commands.choices:
        options = commands.choices[first].parse(rest)
        options.command = first
        return options
    if first.startswith("-"):
        parser.parse([first])
    parser.error(f"There is no command {first}.{_suggestion(first, commands.choices)}")


class _Parser(argparse.ArgumentParser):
    """A parser that takes options anywhere, but never shortened, and says what is wrong in one line below the usage.

    Args:
        operands: What the arguments that are no options are called, and the fewest and the most of them.
        **settings: As for `argparse.ArgumentParser`.
    """

    def __init__(self, *, operands: tuple[str, int, float] = ("", 0, 0), **settings: Any) -> None:
        layout = partial(argparse.RawDescriptionHelpFormatter, max_help_position=26)
        super().__init__(formatter_class=layout, allow_abbrev=False, add_help=False, **settings)
        self.add_argument("-h", "--help", action="help", help="Show this message and exit.")
        self._operands = operands

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse options and operands in any order; what follows `--` are operands.

        By itself, argparse takes operands from a single place, and in some versions loses the `--`.
        """
        end = argv.index("--") if "--" in argv else len(argv)
        options, others = self.parse_known_args(argv[:end])
        for word in others:
            if word.startswith("-") and word != STANDARD_INPUT:
                name = word.partition("=")[0]
                self.error(f"There is no option {name}.{_suggestion(name, self._option_string_actions)}")
        options.operands = [*others, *argv[end + 1 :]]
        name, fewest, most = self._operands
        if len(options.operands) < fewest:
            self.error(f"Missing argument {name}.")
        if len(options.operands) > most:
            self.error(f"Unexpected argument {options.operands[int(most)]}.")
        return options

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the call, and exit."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}\n")


def _suggestion(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    return "".join(f" Did you mean {match}?" for match in get_close_matches(word, known, n=1))


_Add: TypeAlias = Callable[..., _Parser]


def _caption(add: _Add) -> None:
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
  captioner caption - < photo.jpg""",
    )
    parser.add_argument("--json", action="store_true", help="Print a JSON object per image.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Write captions there, as they come.")
    parser.add_argument(
        "--save-attention", type=Path, metavar="DIR", help="Write an .npz per image: words, attention, log_probs."
    )
    _add_model(parser)
    search = _add_search(parser)
    search.add_argument(
        "--alternatives", type=int, metavar="N", help="Captions per image, the best first. [default: the model's]"
    )
    search.add_argument("--include", action="append", metavar="WORDS", help="What captions must contain; repeatable.")
    _add_sampling(parser)


def _explain(add: _Add) -> None:
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
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=".png, .pdf, .svg or .html. [required]"
    )
    parser.add_argument(
        "--method",
        choices=("attention", "occlusion", "gradient"),
        metavar="METHOD",
        help="attention, occlusion (hides parts of the photo; for all models) or gradient (needs torch). "
        "[default: attention]",
    )
    _add_model(parser)
    _add_search(parser)
    _add_sampling(parser)


def _evaluate(add: _Add) -> None:
    parser = add(
        "evaluate",
        usage="captioner evaluate --annotations FILE [OPTIONS]",
        help="Caption annotated images and score the captions.",
        description="Caption annotated images and score the captions, or score finished results.",
        epilog="""\
examples:
  captioner evaluate --annotations captions_val.json --images val/ --output scores/
  captioner evaluate --annotations captions_val.json --results results.json
  captioner evaluate --annotations captions_val.json --results ours.json --compare theirs.json
  captioner evaluate --annotations dataset_coco.json --images coco/ --split test""",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        metavar="FILE",
        help="COCO captions JSON, Karpathy's splits, CSV or JSON lines. [required]",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="Where image paths start. [default: COCO's folders around FILE, or FILE's own]",
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        metavar="SPLIT",
        help="train, val or test: which of Karpathy's splits; other files are scored whole.",
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="Score these COCO results instead.")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="Test the difference to these COCO results (paired bootstrap)."
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="Score what there is where images have no caption."
    )
    parser.add_argument(
        "--metrics",
        default="bleu,rouge,cider",
        metavar="NAMES",
        help="Of bleu, rouge, cider, meteor, spice; the last two need Java. [default: %(default)s]",
    )
    parser.add_argument(
        "--training-captions",
        type=Path,
        metavar="FILE",
        help="To see which captions are new. [default: the train split of --annotations, if it has splits]",
    )
    parser.add_argument(
        "--instances", type=Path, metavar="FILE", help="COCO instances JSON, for scores by what is in the images."
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="For report.html, scores.json, per_image.csv and results.json."
    )
    _add_model(parser)
    parser.set_defaults(backend=None, batch_size=None)  # so that what is said can be refused beside --results
    _add_search(parser)
    _add_sampling(parser)


def _demo(add: _Add) -> None:
    parser = add(
        "demo",
        usage="captioner demo [OPTIONS]",
        help="Serve a page to try a model on.",
        description="""\
Serve a page that captions photos and shows for each word where the model looked. It
loads nothing from elsewhere. Ctrl-C ends it, and deletes all that was uploaded.""",
        epilog="""\
examples:
  captioner demo
  captioner demo --model runs/tiny/best --port 8000
  captioner demo --host 0.0.0.0""",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="Where to listen: 127.0.0.1 for this machine alone, 0.0.0.0 for its network. [default: %(default)s]",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="Port to listen at. [default: the first free one from 7860 on]"
    )
    parser.add_argument("--share", action="store_true", help="Also make a public address, by a tunnel of gradio.live.")
    _add_model(parser, batches=False)


def _export(add: _Add) -> None:
    add(
        "export",
        usage="captioner export DIR",
        operands=("DIR", 1, 1),
        help="Write the ONNX pair of a checkpoint.",
        description="Write the ONNX pair of the checkpoint folder DIR, so that it captions without torch.",
        epilog="example:\n  captioner export runs/tiny/best",
    )


def _info(add: _Add) -> None:
    parser = add(
        "info",
        usage="captioner info [DIR] [OPTIONS]",
        operands=("DIR", 0, 1),
        help="Say what a checkpoint is.",
        description="Say what the checkpoint folder DIR is. [default: the bundled model]",
        epilog="examples:\n  captioner info\n  captioner info runs/tiny/best --json",
    )
    parser.add_argument("--json", action="store_true", help="Print a JSON object.")


def _add_model(parser: _Parser, *, batches: bool = True) -> None:
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        action="append",
        help="Checkpoint folder; given several times, they decide together. [default: the bundled model]",
    )
    model.add_argument(
        "--backend",
        choices=("auto", "onnx", "torch"),
        default="auto",
        metavar="BACKEND",
        help="auto, onnx or torch: what runs the network; onnx needs no torch. [default: auto]",
    )
    model.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; all but cpu need torch. [default: cpu]"
    )
    if batches:
        model.add_argument(
            "--batch-size",
            type=int,
            default=32,
            metavar="N",
            help="The most images at once; captions don't depend on it. [default: 32]",
        )


def _add_search(parser: _Parser) -> "argparse._ArgumentGroup":
    search = parser.add_argument_group("search")
    search.add_argument(
        "--beam-size", type=int, metavar="N", help="Beams of the search; 1 is greedy. [default: the model's]"
    )
    search.add_argument(
        "--max-length", type=int, metavar="N", help="The most words of a caption. [default: the model's]"
    )
    search.add_argument(
        "--min-length", type=int, metavar="N", help="The fewest words of a caption. [default: the model's]"
    )
    search.add_argument(
        "--length-penalty", type=float, metavar="X", help="Above 0 favours longer captions. [default: the model's]"
    )
    search.add_argument(
        "--no-repeat-ngram",
        type=int,
        metavar="N",
        help="So many words in a row only once; 0 is off. [default: the model's]",
    )
    search.add_argument(
        "--forbidden-endings",
        type=_words,
        metavar="WORDS",
        help="What no caption ends with: a,the,of [default: the model's]",
    )
    search.add_argument("--style", metavar="NAME", help="The manner of speech. [default: the model's]")
    return search


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _add_sampling(parser: _Parser) -> None:
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--sample", action="store_true", default=None, help="Draw words at random instead of searching."
    )
    sampling.add_argument("--temperature", type=float, metavar="X", help="Below 1 is cautious, above 1 varied.")
    sampling.add_argument("--top-k", type=int, metavar="N", help="Draw from so many most probable words.")
    sampling.add_argument("--top-p", type=float, metavar="P", help="Draw from words of this joint probability.")
    sampling.add_argument("--seed", type=int, metavar="N", help="Makes it repeatable.")
