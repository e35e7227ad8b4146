"""`captioner export`: a checkpoint -> its ONNX pair."""

from argparse import Namespace
from pathlib import Path

from captioner.commands.parser import Add
from captioner.commands.terminal import show_warnings
from captioner.errors import MissingExtraError


def declare(add: Add) -> None:
    """Say what the command takes."""
    parser = add(
        "export",
        usage="captioner export DIR",
        operands=("DIR", 1, 1),
        help="Write the ONNX pair of a checkpoint.",
        description=(
            "Write the ONNX pair of the checkpoint folder DIR, so that it captions without torch."
        ),
        epilog="example:\n  captioner export runs/tiny/best",
    )
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Write the ONNX pair of a checkpoint, so that it captions without torch."""
    from captioner.checkpoint import ONNX_PAIR, read_checkpoint

    show_warnings()
    folder = Path(*options.operands)
    read_checkpoint(
        folder
    )  # says what is wrong with the folder before torch is imported, which takes its time
    try:
        from captioner.export import export_onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("Exporting", "train") from error
    export_onnx(folder)
    for name in ONNX_PAIR:
        print(folder / name)
    return 0
