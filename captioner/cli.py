"""The `captioner` command: a client of the library that parses, calls and prints.

Results go to stdout, everything else to stderr. Exit status: 0 if all succeeded; 1 if some inputs
failed, each named on stderr; 2 if the call itself was wrong.
"""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence

from captioner._version import __version__
from captioner.commands import (
    calibrate,
    caption,
    corpus,
    demo,
    evaluate,
    events,
    explain,
    export,
    info,
    prepare_coco,
    pretrain,
    push,
    train,
    watch,
)
from captioner.commands.parser import Parser, suggestion
from captioner.commands.terminal import open_closed_streams, print_odd_characters, report
from captioner.errors import CaptionerError
from captioner.stopping import stop_at_once

_COMMANDS = (
    caption,
    corpus,
    watch,
    evaluate,
    events,
    explain,
    demo,
    export,
    push,
    info,
    train,
    calibrate,
    pretrain,
    prepare_coco,
)  # in the order of the help
_INTERRUPTED, _BROKEN_PIPE = 130, 141  # as in shells: 128 + SIGINT, 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; a user's mistake becomes one line on stderr.

    Args:
        argv: The arguments after `captioner`; those of the process if None.

    Returns:
        The exit status.
    """
    open_closed_streams()
    print_odd_characters()
    # not found: OpenVINO would import its converter of models and, for it, telemetry, in 0.1 s
    sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]
    try:
        with stop_at_once([signal.SIGTERM]):
            status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except CaptionerError as error:
        report(str(error))
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of the results has closed the pipe: | head
        _flush_or_drop()
        return _BROKEN_PIPE
    except OSError as error:
        report(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        _flush_or_drop()
        return 2
    finally:
        if (
            argv is None and "torch" not in sys.modules
        ):  # torch's libraries complain about objects that were not freed
            # skip the garbage collection of all imported modules at exit, which takes 30 ms
            gc.freeze()
    return status


def _flush_or_drop() -> None:
    """Flush stdout; if that fails, discard its buffer before Python flushes it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str]) -> int:
    try:
        options = parse(argv)
    except SystemExit as end:
        return int(end.code or 0)
    status: int = options.run(options)
    return status


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Args:
        argv: The arguments after `captioner`.

    Returns:
        The options by name; `run` is the function to call with them, and `operands` are the
        positional arguments.

    Raises:
        SystemExit: Help or version were requested and are printed (status 0), or the call is wrong,
            and stderr says why (status 2).
    """
    parser = Parser(
        prog="captioner",
        usage="captioner COMMAND [OPTIONS]",
        description="Describe photos in a sentence.",
        epilog="More about a command: captioner COMMAND --help",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"captioner {__version__}",
        help="Show the version and exit.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in _COMMANDS:
        command.declare(commands.add_parser)
    if not argv:
        parser.print_help(sys.stderr)
        parser.exit(2)
    first, *rest = argv
    if first in commands.choices:
        return commands.choices[first].parse(rest)
    if first.startswith("-"):
        parser.parse([first])
    hint = suggestion(first, commands.choices) or f" Expected one of {', '.join(commands.choices)}."
    if os.path.exists(first):
        hint = f" To caption it: captioner caption {first}"
    parser.error(f"Unknown command {first}.{hint}")
