"""Run the official METEOR and SPICE jars from the package pycocoevalcap.

The package's own classes leave processes behind, and hang if Java crashes. Here every Java process
is killed and waited for in any case, and its error output becomes the error message.
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

UTF8 = "-Dfile.encoding=UTF-8"  # before Java 18 the default depends on the locale

_START_SECONDS, _CAPTION_SECONDS = (
    600,
    2,
)  # far more than either takes: only a process that hangs times out
_NUMBERS = re.compile(r"[-+.0-9eENaInfity ]+")  # METEOR's answers
# SPICE's serialization needs access that Java 16 and later grant only with this option. Java 8
# ignores the environment variable.
_OPENED = " ".join(
    f"--add-opens=java.base/java.{name}=ALL-UNNAMED"
    for name in ("lang", "math", "net", "text", "util")
)


class MissingJavaError(CaptionerError):
    """METEOR or SPICE cannot be computed: Java, a jar or its models are missing or do not work."""


def package_folder(what: str) -> Path:
    """Find the folder of pycocoevalcap without importing it: its SPICE module starts a download.

    Args:
        what: The metric that needs it, for error messages.

    Raises:
        MissingExtraError: pycocoevalcap is not installed.
    """
    found = find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(what, "coco")
    return Path(next(iter(found.submodule_search_locations)))


def find_java(what: str) -> str:
    """Find the program `java`.

    Args:
        what: The metric that needs it, for error messages.

    Raises:
        MissingJavaError: It is not on the PATH.
    """
    java = shutil.which("java")
    if java is None:
        raise MissingJavaError(
            f"{what} requires Java, but there is no `java` on the PATH. Install Java 8 or newer,"
            " for example: apt install default-jre"
        )
    return java


def existing_jar(what: str, jar: Path) -> str:
    """Return the path of a jar, after checking that it exists.

    Args:
        what: The metric that needs it, for error messages.
        jar: The expected path.

    Raises:
        MissingJavaError: The jar is missing.
    """
    if not jar.is_file():
        raise MissingJavaError(
            f"{what} requires {jar}, which is missing. Reinstall the package: "
            "pip install --force-reinstall --no-deps pycocoevalcap"
        )
    return str(jar)


def one_line(tokens: Tokens) -> str:
    """Join tokens to one line, without METEOR's caption separators."""
    return " ".join(" ".join(tokens).replace("|||", "").split())


@contextmanager
def conversation(
    what: str, command: Sequence[str], captions: int
) -> Iterator[tuple[Callable[[str], str], Callable[[], str]]]:
    """Run a Java program that reads lines from stdin and answers each with a line.

    Args:
        what: The metric, for error messages.
        command: The program and its arguments.
        captions: The number of captions it will get; the timeout grows with it.

    Yields:
        `ask`, which writes a line and reads the answer, and `read`, which only reads a line.

    Raises:
        MissingJavaError: The program failed, timed out, or gave an unexpected answer.
    """
    with (
        tempfile.TemporaryFile() as complaints
    ):  # a file rather than a pipe, which would block the program once full
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
            with suppress(BrokenPipeError):  # read() reports the failure
                to_java.write(f"{line}\n".encode(errors="replace"))  # lone surrogates
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
    """Run a Java program to its end.

    Args:
        what: The metric, for error messages.
        command: The program and its arguments.
        captions: The number of captions it gets; the timeout grows with it.

    Raises:
        MissingJavaError: The program failed or timed out.
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
    """Make an error from the program's output: its first error line, else its last line."""
    complaints.seek(0)
    said = [
        line.strip()
        for line in complaints.read().decode("utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    errors = [line for line in said if "rror" in line or "xception" in line]
    line = next(iter([*errors, *said[-1:], "it gave no answer"]))
    return MissingJavaError(
        f"{what}'s Java program failed: {line[:200]}. Check that Java works: java -version"
    )
