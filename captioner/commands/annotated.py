"""The options of commands that read annotated images."""

from pathlib import Path

from captioner.commands.parser import Parser


def add_annotated(parser: Parser, taken: str) -> None:
    """Add `--annotations`, `--images` and `--split`.

    Args:
        parser: The command's parser.
        taken: What happens to the images, for the help: "scored".
    """
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
        help=f"train, val or test: which of Karpathy's splits; other files are {taken} whole.",
    )
