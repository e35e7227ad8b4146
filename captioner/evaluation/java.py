"""Run the official METEOR and SPICE jars, which come with the package pycocoevalcap.

The package's own classes leave processes behind, and hang where Java dies. Here every Java process
is killed and waited for, whatever happens, and what it complained about becomes the message of an
error.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import IO

from captioner.errors import CaptionerError, MissingExtraError
from captioner.evaluation.corpus import Tokens

UTF8 = "-Dfile.encoding=UTF-8"  # before Java 18 the locale decides

_START_SECONDS, _CAPTION_SECONDS = (
    600,
    2,
)  # far more than either takes: only a process that hangs is given up
_NUMBERS = re.compile(r"[-+.0-9eENaInfity ]+")  # all that METEOR answers
# SPICE keeps objects in a form that newer Javas hand out only if told to. Java 8 knows neither
# option nor variable.
_OPENED = " ".join(
    f"--add-opens=java.base/java.{name}=ALL-UNNAMED"
    for name in ("lang", "math", "net", "text", "util")
)


class MissingJavaError(CaptionerError):
    """METEOR or SPICE cannot be computed: Java, a jar or its models are missing or do not work."""


def package_folder(what: str) -> Path:
    """Where pycocoevalcap is; it is not imported: its SPICE begins with a download.

    Args:
        what: What needs it, for the message of the error.

    Raises:
        MissingExtraError: It is not installed.
    """
    found = find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(what, "coco")
    return Path(next(iter(found.submodule_search_locations)))


def find_java(what: str) -> str:
    """The program `java`.

    Args:
        what: What needs it, for the message of the error.

    Raises:
        MissingJavaError: It is not on the PATH.
    """
    java = shutil.which("java")
    if java is None:
        raise MissingJavaError(
            f"{what} needs Java, and there is no `java` on the PATH. Install Java 8 or newer, for"
            " example: apt install default-jre"
        )
    return java


def existing_jar(what: str, jar: Path) -> str:
    """The path of a jar as a command takes it.

    Args:
        what: What needs it, for the message of the error.
        jar: Where it must be.

    Raises:
        MissingJavaError: It isn't there.
    """
    if not jar.is_file():
        raise MissingJavaError(
            f"{what} needs {jar}, which is missing. Install the package again: "
            "pip install --force-reinstall --no-deps pycocoevalcap"
        )
    return str(jar)


def one_line(tokens: Tokens) -> str:
    """Tokens on one line, without what separates captions in METEOR's input."""
    return " ".join(" ".join(tokens).replace("|||", "").split())


@contextmanager
def conversation(
    what: str, command: Sequence[str], captions: int
) -> Iterator[tuple[Callable[[str], str], Callable[[], str]]]:
    """Run a Java program that answers lines with lines.

    Args:
        what: What it computes, for the message of the error.
        command: The program and its arguments.
        captions: How many captions it will be asked about: it may take longer for more.

    Yields:
        `ask`, which says a line and reads one, and `read`, which only reads.

    Raises:
        MissingJavaError: It failed, hangs, or answers something else.
    """
    with (
        tempfile.TemporaryFile() as complaints
    ):  # a pipe that nobody reads would fill up and stop the program
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
            )
        except OSError as error:
            raise _failure(what, complaints) from error
        assert process.stdin and process.stdout
        to_java, from_java = process.stdin, process.stdout
        limit = Timer(_START_SECONDS + _CAPTION_SECONDS * captions, process.kill)
        limit.start()

        def read() -> str:
            line = from_java.readline().decode("utf-8", errors="replace").strip()
            if not line or not _NUMBERS.fullmatch(line):
                process.kill()
                process.wait()
                raise _failure(what, complaints)
            return line

        def ask(line: str) -> str:
            with suppress(BrokenPipeError):  # read() says what happened
                to_java.write(f"{line}\n".encode(errors="replace"))  # half a surrogate pair
                to_java.flush()
            return read()

        try:
            yield ask, read
        finally:
            limit.cancel()
            process.kill()
            with suppress(OSError):
                to_java.close()
            from_java.close()
            process.wait()


def run_java(what: str, command: Sequence[str], captions: int) -> None:
    """Run a Java program that works on files, and wait for its end.

    Args:
        what: What it computes, for the message of the error.
        command: The program and its arguments.
        captions: How many captions it is given: it may take longer for more.

    Raises:
        MissingJavaError: It failed, or hangs.
    """
    limit = _START_SECONDS + _CAPTION_SECONDS * captions
    environment = {
        **os.environ,
        "JDK_JAVA_OPTIONS": f"{os.environ.get('JDK_JAVA_OPTIONS', '')} {_OPENED}",
    }
    with tempfile.TemporaryFile() as complaints:
        try:
            subprocess.run(
                command,
                env=environment,
                check=True,
                timeout=limit,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise _failure(what, complaints) from error


def _failure(what: str, complaints: IO[bytes]) -> MissingJavaError:
    """Pick the message for the error: the program's first error line, else its last line."""
    complaints.seek(0)
    said = [
        line.strip()
        for line in complaints.read().decode("utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    errors = [line for line in said if "rror" in line or "xception" in line]
    line = next(iter([*errors, *said[-1:], "it gave no answer"]))
    return MissingJavaError(
        f"{what}'s Java program failed: {line[:200]}. See whether Java works: java -version"
    )
