"""How command lines are read, on the standard library alone."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeAlias

STANDARD_INPUT = "-"


class Parser(argparse.ArgumentParser):
    """An argument parser: options anywhere, no abbreviations, one-line errors below the usage.

    Args:
        operands: What the arguments that are no options are called, and the fewest and the most of
            them.
        passed_on: Whether the command reads its arguments itself: all of them are operands,
            `--help` included.
        **settings: As for `argparse.ArgumentParser`.
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
        """Parse options and operands in any order; what follows `--` are operands.

        By itself, argparse takes operands from a single place, and in some versions loses the `--`.

        Returns:
            The options by name, and as `operands` the arguments that are no options.

        Raises:
            SystemExit: Help was asked for and is printed (status 0), or the call is wrong, and
                stderr says why (status 2).
        """
        if self._passed_on:
            return argparse.Namespace(**self._defaults, operands=list(argv))
        end = argv.index("--") if "--" in argv else len(argv)
        options, others = self.parse_known_args(argv[:end])
        for word in others:
            if word.startswith("-") and word != STANDARD_INPUT:
                name = word.partition("=")[0]
                self.error(
                    f"There is no option {name}.{suggestion(name, self._option_string_actions)}"
                )
        options.operands = [*others, *argv[end + 1 :]]
        name, fewest, most = self._operands
        if len(options.operands) < fewest:
            self.error(f"Missing argument {name}.")
        if len(options.operands) > most:
            self.error(f"Unexpected argument {options.operands[int(most)]}.")
        return options

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the call, and exit."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}\n")


Add: TypeAlias = Callable[..., Parser]
"""Adds a command, by its name and the arguments of `Parser`."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Suggest what an unknown word may have meant, as a sentence after a space, or nothing."""
    from difflib import get_close_matches

    return "".join(f" Did you mean {match}?" for match in get_close_matches(word, known, n=1))
