"""Command-line parsing with the standard library only."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

STANDARD_INPUT = "-"


class Parser(argparse.ArgumentParser):
    """An argument parser: options anywhere, no abbreviations, one-line errors below the usage.

    Args:
        operands: The name of the positional arguments, and their minimum and maximum number.
        passed_on: Whether the command parses its arguments itself; then all of them are operands,
            `--help` included.
        **settings: See `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        *,
        operands: tuple[str, int, float] = ("", 0, 0),
        passed_on: bool = False,
        **settings: Any,
    ) -> None:
        layout = partial(argparse.RawDescriptionHelpFormatter, max_help_position=26)
        super().__init__(formatter_class=layout, allow_abbrev=False, add_help=False, **settings)
        self.add_argument("-h", "--help", action="help", help="Show this message and exit.")
        self._operands = operands
        self._passed_on = passed_on

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse options and operands in any order; everything after `--` is an operand.

        argparse alone accepts operands in one place only, and some versions lose the `--`.

        Args:
            argv: The arguments.

        Returns:
            The options by name, and the positional arguments as `operands`.

        Raises:
            SystemExit: The help was printed (status 0), or the call is wrong and stderr says why
                (status 2).
        """
        if self._passed_on:
            return argparse.Namespace(**self._defaults, operands=list(argv))
        end = argv.index("--") if "--" in argv else len(argv)
        options, others = self.parse_known_args(argv[:end])
        for word in others:
            if word.startswith("-") and word != STANDARD_INPUT:
                name = word.partition("=")[0]
                self.error(f"Unknown option {name}.{suggestion(name, self._option_string_actions)}")
        options.operands = [*others, *argv[end + 1 :]]
        name, fewest, most = self._operands
        if len(options.operands) < fewest:
            self.error(f"Missing argument {name}.")
        if len(options.operands) > most:
            self.error(f"Unexpected argument {options.operands[int(most)]}.")
        return options

    def error(self, message: str) -> NoReturn:
        """Print the usage and an error, and exit."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}\n")


Add: TypeAlias = Callable[..., Parser]
"""Adds a command, given its name and the arguments of `Parser`."""


def file_path(text: str) -> Path:
    """Parse the path of a file; `Path` alone takes `folder/` and `-` for files of these names.

    Raises:
        argparse.ArgumentTypeError: It ends as only a folder's path does, or is `-`.
    """
    if text == STANDARD_INPUT:
        raise argparse.ArgumentTypeError("- names no file")
    if text.endswith(tuple(filter(None, (os.sep, os.altsep)))):
        raise argparse.ArgumentTypeError(f"{text} is a folder; expected a file")
    return Path(text)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Suggest a known word for an unknown one, as a sentence after a space; "" without a match."""
    from difflib import get_close_matches

    return "".join(f" Did you mean {match}?" for match in get_close_matches(word, known, n=1))
