"""`captioner export`: a checkpoint -> its ONNX pair, or a quantized copy."""

from argparse import Namespace
from pathlib import Path

from captioner.commands.parser import Add
from captioner.commands.terminal import show_warnings
from captioner.errors import ConfigError, MissingExtraError


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "export",
        usage="captioner export DIR [--int8 --calibrate FOLDER [--output DIR]]",
        operands=("DIR", 1, 1),
        help="Write the ONNX pair of a checkpoint, or a quantized copy.",
        description="""\
Write the ONNX pair of the checkpoint folder DIR, so that it captions without torch. DIR may be
bundled, for the bundled model.

With --int8, write a copy of a third of the size, whose CNN computes in 8-bit integers.""",
        epilog=(
            "examples:\n  captioner export runs/tiny/best\n"
            "  captioner export runs/tiny/best --int8 --calibrate photos/ --output small"
        ),
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="Write a quantized copy to --output; requires --calibrate.",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FOLDER",
        help="Photos similar to those to caption; up to 256 of them are used.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="Folder for the quantized copy. [default: DIR-int8]",
    )
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Write the ONNX pair of a checkpoint, for captioning without torch, or a quantized copy."""
    from captioner.checkpoint import ONNX_PAIR, read_checkpoint
    from captioner.hub.download import check_writable

    show_warnings()
    check_writable(*options.operands)
    # Tells what is wrong with the folder before torch is imported, which takes its time.
    folder = read_checkpoint(*options.operands).folder
    if options.int8 != (options.calibrate is not None) or (options.output and not options.int8):
        raise ConfigError("--int8 and --calibrate FOLDER go together; --output needs both.")
    if options.int8:
        return _quantize(folder, options)
    try:
        from captioner.export import export_onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("Exporting", "train") from error
    export_onnx(folder)
    for name in ONNX_PAIR:
        print(folder / name)
    return 0


def _quantize(folder: Path, options: Namespace) -> int:
    from captioner.images import find_images
    from captioner.images.clips import evenly

    photos = sorted(find_images(options.calibrate))
    try:
        from captioner.quantization import PHOTOS, quantize
    except ModuleNotFoundError as error:
        raise MissingExtraError("Quantizing", "train") from error
    name = Path(*options.operands)
    name = name if name.name.strip(".") else name.resolve()  # "." and ".." are no names
    output = options.output or name.with_name(f"{name.name}-int8")
    quantize(folder, output, evenly(photos, min(PHOTOS, len(photos))))
    print(output)
    return 0
