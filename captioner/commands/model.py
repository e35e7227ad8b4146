"""The options that the commands with a model share: which model, what runs it."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from captioner.backends.choice import BACKENDS
from captioner.commands.parser import Parser
from captioner.hub.download import is_of_hub

_SEVERAL = (
    "Checkpoint folder, or hf://owner/name@revision; given several times, they decide together."
    " [default: the bundled model]"
)


def add_model(parser: Parser, *, batches: bool = True, which: str = _SEVERAL) -> None:
    """Add `--model`, `--backend`, `--device` and, where there are batches, `--batch-size`.

    Args:
        parser: Of the command.
        batches: Whether it captions in batches.
        which: What the help says of `--model`.
    """
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        type=_model,
        metavar="DIR",
        action="append",
        help=which,
    )
    model.add_argument(
        "--backend",
        choices=("auto", *BACKENDS),
        default="auto",
        metavar="BACKEND",
        help=(
            f"auto, {' or '.join(BACKENDS)}: what runs the network; onnx needs no torch. [default:"
            " auto]"
        ),
    )
    model.add_argument(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, ...; all but cpu need torch. [default: cpu]",
    )
    if batches:
        model.add_argument(
            "--batch-size",
            type=int,
            default=32,
            metavar="N",
            help="The most images at once; captions don't depend on it. [default: 32]",
        )


def _model(text: str) -> Path | str:
    """A folder; what names a model of the hub stays as it is."""
    return text if is_of_hub(text) else Path(text)


def given(options: Namespace, *names: str) -> dict[str, Any]:
    """Give those of the named options that were said; all else is the model's business."""
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}
