"""Options that all commands with a model share: `--model`, `--backend`, `--device`."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from captioner.backends.choice import BACKENDS
from captioner.commands.parser import Parser
from captioner.hub.download import is_of_hub

_SEVERAL = (
    "Checkpoint folder, hf://owner/name@revision or bundled; repeat it for an ensemble. [default:"
    " bundled]"
)


def add_model(parser: Parser, *, batches: bool = True, which: str = _SEVERAL) -> None:
    """Add `--model`, `--backend`, `--device` and optionally `--batch-size`.

    Args:
        parser: The command's parser.
        batches: Whether to add `--batch-size`.
        which: The help of `--model`.
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
            f"{', '.join(('auto', *BACKENDS))}: what runs the network; only torch requires torch."
            " [default: auto]"
        ),
    )
    model.add_argument(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, ...; all but cpu require torch. [default: cpu]",
    )
    if batches:
        model.add_argument(
            "--batch-size",
            type=int,
            default=32,
            metavar="N",
            help="The largest batch; captions don't depend on it. [default: 32]",
        )


def _model(text: str) -> Path | str:
    """Convert an argument to a path; "bundled" and references to the hub stay strings."""
    return text if text == "bundled" or is_of_hub(text) else Path(text)


def given(options: Namespace, *names: str) -> dict[str, Any]:
    """Return those of the named options that were given; the others get their defaults later."""
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}
