"""`captioner pretrain`: train an encoder on labelled images."""

import os
from argparse import Namespace

from captioner.commands.parser import Add
from captioner.commands.train import with_paths
from captioner.errors import MissingExtraError


def declare(add: Add) -> None:
    """Add the command; LightningCLI parses everything but the config's name, help included."""
    parser = add(
        "pretrain",
        passed_on=True,
        help="Train an encoder on labelled images: captioner pretrain --config pretrain",
    )
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Train an encoder."""
    arguments = list(with_paths(options.operands))  # fails early, before torch is imported
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # see captioner/commands/train.py
    try:
        from captioner.pretraining.train import main
    except ModuleNotFoundError as error:
        raise MissingExtraError("Pretraining", "train") from error
    return main(arguments)
