"""`captioner train`: train a model from a config."""

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
    )  # fails early, before torch is imported, which takes seconds
    os.environ.setdefault(
        "THP_MEM_ALLOC_ENABLE", "1"
    )  # lets torch use huge pages: up to twice as fast on a CPU
    try:
        from captioner.training.train import main
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", "train") from error
    return main(arguments)


def shipped_configs() -> dict[str, Path]:
    """Find the configs that ship with captioner, by name.

    In a wheel they are inside the package, in a clone next to it.
    """
    package = Path(captioner.__file__).parent
    folder = package / "configs"
    if not folder.is_dir():
        folder = package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(config: str) -> str:
    """Find a config by the value of `--config`.

    Args:
        config: The name of a shipped config, or a path.

    Returns:
        Its path. Other values are returned unchanged: LightningCLI also accepts URLs and YAML.

    Raises:
        ConfigError: There is no such config.
    """
    shipped = shipped_configs()
    if config in shipped:
        return str(shipped[config])
    if os.path.isfile(config) or re.search(r"[:\n]", config):
        return config
    raise ConfigError(
        f"Unknown config {config}.{suggestion(Path(config).stem, shipped)} Expected a YAML file,"
        f" or one of {', '.join(shipped)}."
    )


def with_paths(arguments: Sequence[str]) -> Iterator[str]:
    """Yield arguments, with names of configs replaced by their paths.

    Args:
        arguments: The arguments after `captioner train`.

    Raises:
        ConfigError: There is no such config, no argument, or the first one is not an option.
    """
    first = next(iter(arguments), None)
    if first is None or not first.startswith("-"):
        wrong = "No config was given." if first is None else f"Unexpected argument {first}."
        raise ConfigError(
            f"{wrong} Expected --config with a YAML file, or one of {', '.join(shipped_configs())}."
        )
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
