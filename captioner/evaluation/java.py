"""METEOR and SPICE by the official jars, which the package pycocoevalcap brings: the two scores that need Java.

The package's own classes leave processes behind, and hang where Java dies. Here every Java process is killed and waited
for, whatever happens, and what it complained about becomes the message of an error.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import IO

import numpy as np
import numpy.typing as npt

from captioner.errors import CaptionerError, MissingExtraError
from captioner.evaluation.corpus import Id, Tokens, check

_START_SECONDS, _CAPTION_SECONDS = 600, 2  # far more than either takes: only a process that hangs is given up
_UTF8 = "-Dfile.encoding=UTF-8"  # before Java 18 the locale decides
_METEOR_OPTIONS = ("-", "-", "-stdio", "-l", "en", "-norm")
_NUMBERS = re.compile(r"[-+.0-9eENaInfity ]+")  # all that METEOR answers
# SPICE keeps objects in a form that newer Javas hand out only if told to. Java 8 knows neither option nor variable.
_OPENED = " ".join(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "math", "net", "text", "util"))


class MissingJavaError(CaptionerError):
    """METEOR or SPICE cannot be computed: Java, a jar or its models are missing or do not work."""


def meteor(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, npt.NDArray[np.float64]]:
    """METEOR (Denkowski and Lavie, 2014) by the jar 1.5 with `-l en -norm`, as the official COCO scorer runs it.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        The corpus score (from the sums over images, not their mean) and the images' scores (N,), in the order of
        `references`.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
        MissingExtraError: pycocoevalcap is not installed.
        MissingJavaError: Java or the jar is missing or does not work.
    """
    check(references, candidates)
    jar = _existing("METEOR", _package("METEOR") / "meteor" / "meteor-1.5.jar")
    command = [_java("METEOR"), "-Xmx2G", _UTF8, "-jar", jar, *_METEOR_OPTIONS]
    with _conversation("METEOR", command, len(references)) as (ask, read):
        statistics = [ask(_meteor_line(texts, candidates[image_id])) for image_id, texts in references.items()]
        answers = [ask(" ||| ".join(["EVAL", *statistics])), *(read() for _ in references)]
    *scores, corpus = map(float, answers)
    return corpus, np.array(scores)


def spice(
    references: Mapping[Id, Sequence[Tokens]], candidates: Mapping[Id, Tokens]
) -> tuple[float, npt.NDArray[np.float64]]:
    """SPICE (Anderson et al., 2016) by the jar 1.0, as the official COCO scorer runs it, but without its cache.

    Args:
        references: One or more references for each image.
        candidates: The caption to score for each image.

    Returns:
        The corpus score (the mean) and the images' scores (N,), in the order of `references`; nan where there is none.

    Raises:
        DataError: The two don't have the same images, there are none, or one has no references.
        MissingExtraError: pycocoevalcap is not installed.
        MissingJavaError: Java, the jar or Stanford's models are missing or do not work.
    """
    check(references, candidates)
    folder = _package("SPICE") / "spice"
    jar, java = _existing("SPICE", folder / "spice-1.0.jar"), _java("SPICE")
    for models in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        if not (folder / "lib" / models).is_file():
            raise MissingJavaError(
                f"SPICE needs {models}, which pycocoevalcap does not contain. Download it (400 MB, once): "
                "python -m pycocoevalcap.spice.get_stanford_models"
            )
    entries = [
        {"image_id": row, "test": _sentence(candidates[image_id]), "refs": [_sentence(text) for text in texts]}
        for row, (image_id, texts) in enumerate(references.items())
    ]
    with tempfile.TemporaryDirectory() as scratch:
        given, result = Path(scratch) / "captions.json", Path(scratch) / "scores.json"
        given.write_text(json.dumps(entries), encoding="utf-8")
        _run("SPICE", [java, "-Xmx8G", _UTF8, "-jar", jar, str(given), "-out", str(result), "-silent"], len(entries))
        answers = json.loads(result.read_bytes())
    scored = {answer["image_id"]: answer["scores"]["All"]["f"] for answer in answers}
    scores = np.array([scored[row] for row in range(len(entries))], dtype=np.float64)  # None becomes nan
    return float(scores.mean()), scores


def _package(what: str) -> Path:
    """Where pycocoevalcap is; it is not imported: its SPICE begins with a download."""
    found = find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(what, "coco")
    return Path(next(iter(found.submodule_search_locations)))


def _java(what: str) -> str:
    java = shutil.which("java")
    if java is None:
        raise MissingJavaError(
            f"{what} needs Java, and there is no `java` on the PATH. Install Java 8 or newer, for example: "
            "apt install default-jre"
        )
    return java


def _existing(what: str, jar: Path) -> str:
    if not jar.is_file():
        raise MissingJavaError(
            f"{what} needs {jar}, which is missing. Install the package again: "
            "pip install --force-reinstall --no-deps pycocoevalcap"
        )
    return str(jar)


def _meteor_line(references: Sequence[Tokens], candidate: Tokens) -> str:
    return " ||| ".join(["SCORE", *map(_sentence, references), _sentence(candidate)])


def _sentence(tokens: Tokens) -> str:
    """Tokens on one line, without what separates captions in METEOR's input."""
    return " ".join(" ".join(tokens).replace("|||", "").split())


@contextmanager
def _conversation(
    what: str, command: Sequence[str], captions: int
) -> Iterator[tuple[Callable[[str], str], Callable[[], str]]]:
    """Runs a Java program that answers lines with lines: gives `ask`, which says one and reads one, and `read`."""
    with tempfile.TemporaryFile() as complaints:  # a pipe that nobody reads would fill up and stop the program
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints)
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


def _run(what: str, command: Sequence[str], captions: int) -> None:
    limit = _START_SECONDS + _CAPTION_SECONDS * captions
    environment = {**os.environ, "JDK_JAVA_OPTIONS": f"{os.environ.get('JDK_JAVA_OPTIONS', '')} {_OPENED}"}
    with tempfile.TemporaryFile() as complaints:
        try:
            subprocess.run(
                command, env=environment, check=True, timeout=limit, stdout=subprocess.DEVNULL, stderr=complaints
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise _failure(what, complaints) from error


def _failure(what: str, complaints: IO[bytes]) -> MissingJavaError:
    """What to raise: the first error among what a program said before it failed, or else the last thing it said."""
    complaints.seek(0)
    said = [line.strip() for line in complaints.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in said if "rror" in line or "xception" in line]
    line = next(iter([*errors, *said[-1:], "it gave no answer"]))
    return MissingJavaError(f"{what}'s Java program failed: {line[:200]}. See whether Java works: java -version")
