"""`captioner info`: describe a checkpoint."""

import json
from argparse import Namespace

from captioner.commands.parser import Add
from captioner.commands.terminal import show_warnings
from captioner.errors import ConfigError


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "info",
        usage="captioner info [DIR] [OPTIONS]",
        operands=("DIR", 0, 1),
        help="Describe a checkpoint.",
        description=(
            "Describe the checkpoint folder DIR, and print its model card. [default: bundled]"
        ),
        epilog="examples:\n  captioner info\n  captioner info runs/tiny/best --json",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--model", metavar="DIR", help="The same as DIR.")
    parser.add_argument("--json", action="store_true", help="Print a JSON object.")


def run(options: Namespace) -> int:
    """Describe a checkpoint."""
    from captioner.checkpoint import describe, read_checkpoint

    show_warnings()
    folders = [*options.operands, *([] if options.model is None else [options.model])]
    if len(folders) > 1:
        raise ConfigError(f"Expected one checkpoint folder, not {' and '.join(folders)}.")
    description = describe(read_checkpoint(*folders))
    if options.json:
        print(json.dumps(description, indent=2))
        return 0
    files = {name: f"{size / 1e6:.1f} MB" for name, size in description.pop("files").items()}
    card = description.pop("card")
    if description["confidence"] is not None:
        description["confidence"] = [style or "plain" for style in description["confidence"]]
    facts = {**description.pop("architecture"), **description, "files": files}
    for name, value in facts.items():
        if value is None:
            continue
        text = (
            ", ".join(f"{key} {entry}" for key, entry in value.items())
            if isinstance(value, dict)
            else value
        )
        text = ", ".join(text) if isinstance(text, list) else text
        print(f"{name.replace('_', ' '):16} {text}")
    if card:
        print("", *card, sep="\n")
    return 0
