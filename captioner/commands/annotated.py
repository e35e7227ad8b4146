"""The options of commands that read annotated images."""

from pathlib import Path

from captioner.commands.parser import Parser, file_path


def add_annotated(parser: Parser, taken: str) -> None:
    """Add `--annotations`, `--images` and `--split`.

    Args:
        parser: The command's parser.
        taken: What the command does with the images, for the help: "scored".
    """
    parser.add_argument(
        "--annotations",
        type=file_path,
        required=True,
        metavar="FILE",
        help="COCO captions JSON, Karpathy's splits, CSV or JSON lines. [required]",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="The folder of the images. [default: COCO's folders around FILE, or FILE's folder]",
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        metavar="SPLIT",
        help=f"train, val or test, of a file with splits; other files are {taken} whole.",
    )
