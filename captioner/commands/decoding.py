"""Command-line flags for decoding options, generated from the fields of `DecodingOptions`."""

from argparse import BooleanOptionalAction
from collections.abc import Collection
from typing import Any

from captioner.commands.parser import Parser
from captioner.decoding.options import Option, decoding_options

DECODING = tuple(option.name for option in decoding_options())
"""The names of all decoding options."""


def add_decoding(parser: Parser, *, without: Collection[str] = ()) -> None:
    """Add a flag for each decoding option; the default is None, which means the model's default.

    Args:
        parser: The command's parser.
        without: Options that have no effect in this command.
    """
    groups = {name: parser.add_argument_group(name) for name in ("search", "sampling")}
    for option in decoding_options():
        if option.name not in without:
            flag = f"--{option.name.replace('_', '-')}"
            groups[option.group].add_argument(flag, default=None, **_settings(option))


def _settings(option: Option) -> dict[str, Any]:
    default = " [default: the model's]" if option.group == "search" else ""
    if option.type is bool:
        return {"action": BooleanOptionalAction, "help": f"{option.help}{default}"}
    settings = {"metavar": option.metavar, "help": f"{option.help}{default}"}
    if not option.is_words:
        return settings | {"type": option.type}
    return settings | {"type": option.words} | ({} if option.names else {"action": "extend"})
