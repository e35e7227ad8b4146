"""`captioner train`: a config -> a trained checkpoint folder."""

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import captioner
from captioner.commands.parser import Add, suggestion
from captioner.errors import ConfigError, MissingExtraError

_CONFIG_FLAGS = ("--config", "-c")


def declare(add: Add) -> None:
    """Add the command; LightningCLI parses everything but the config's name, help included."""
    parser = add("train", passed_on=True, help="Train a model: captioner train --config tiny")
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Train a model."""
    arguments = list(
        with_paths(options.operands)
    )  # says what is wrong before torch is imported, which takes its time
    os.environ.setdefault(
        "THP_MEM_ALLOC_ENABLE", "1"
    )  # torch on huge pages: up to twice the speed on a CPU
    try:
        from captioner.training.train import main
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", "train") from error
    return main(arguments)


def shipped_configs() -> dict[str, Path]:
    """Find the configs that come with captioner, by their names.

    They lie in the package where it was installed from a wheel, and beside it in a clone.
    """
    package = Path(captioner.__file__).parent
    folder = package / "configs"
    if not folder.is_dir():
        folder = package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(config: str) -> str:
    """Find a config by what `--config` says of it.

    Args:
        config: The name of a shipped config, or the path of any.

    Returns:
        Its path. What is neither name nor path is given back: LightningCLI takes URLs and the YAML
            itself, too.

    Raises:
        ConfigError: There is no such config.
    """
    shipped = shipped_configs()
    if config in shipped:
        return str(shipped[config])
    if os.path.isfile(config) or re.search(r"[:\n]", config):
        return config
    raise ConfigError(
        f"There is no config {config}.{suggestion(Path(config).stem, shipped)} Expected a YAML"
        f" file, or one of {', '.join(shipped)}."
    )


def with_paths(arguments: Sequence[str]) -> Iterator[str]:
    """Pass arguments on, with the paths of configs instead of their names.

    Args:
        arguments: What follows `captioner train`.

    Raises:
        ConfigError: There is no such config.
    """
    before = ""
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if before in _CONFIG_FLAGS:
            yield find_config(argument)
        elif equals and flag in _CONFIG_FLAGS:
            yield f"{flag}={find_config(value)}"
        else:
            yield argument
        before = argument
