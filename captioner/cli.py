"""The `captioner` command: a client of the library that parses, calls and prints.

Results go to stdout, everything else to stderr. Exit status: 0 all done; 1 some inputs failed, each named on stderr;
2 the call itself was wrong. What a command needs is imported when it runs, so that `--help` takes a blink.
"""

import functools
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, TypeVar

import typer

from captioner._version import __version__
from captioner.errors import CaptionerError, ConfigError, ImageError, MissingExtraError

if TYPE_CHECKING:
    from captioner.inference import Caption

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help comes several times as fast
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[Path | None, typer.Option(metavar="DIR", help="Checkpoint folder.  [default: the bundled model]")]
Backend = Annotated[Literal["auto", "onnx", "torch"], typer.Option(help="What runs the network; onnx needs no torch.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; all but cpu need torch.  [default: cpu]")]
BatchSize = Annotated[int, typer.Option(help="The most images at once; captions don't depend on it.")]
BeamSize = Annotated[int | None, typer.Option(help="Beams of the search; 1 is greedy.  [default: the model's]")]
MaxLength = Annotated[int | None, typer.Option(help="The most words of a caption.  [default: the model's]")]

STANDARD_INPUT = "-"
_INTERRUPTED, _BROKEN_PIPE = 130, 141  # as shells count: 128 + SIGINT, 128 + SIGPIPE


def main() -> None:
    """Run the command."""
    app(prog_name="captioner")


def _command(function: Callable[..., int]) -> Callable[..., int]:
    """Make a command of a function that returns the exit status; a user's mistake becomes one line on stderr."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        logging.basicConfig(format="%(levelname)s: %(message)s")
        try:
            status = function(*args, **kwargs)
            sys.stdout.flush()
        except CaptionerError as error:
            _report(str(error))
            status = 2
        except KeyboardInterrupt:
            status = _INTERRUPTED
        except BrokenPipeError:  # whoever read the results has seen enough: | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python may flush the rest at exit
            status = _BROKEN_PIPE
        except OSError as error:
            _report(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            status = 2
        raise typer.Exit(status)

    app.command()(run)
    return function


def _version(wanted: bool) -> None:
    if wanted:
        print(f"captioner {__version__}")
        raise typer.Exit


@app.callback()
def _captioner(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Describe photos in a sentence."""


@_command
def caption(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Images, folders of images, or - for standard input.")
    ],
    model: Model = None,
    beam_size: BeamSize = None,
    alternatives: Annotated[int | None, typer.Option(help="Captions per image, the best first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per image.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write captions there, as they come.")] = None,
    backend: Backend = "auto",
    device: Device = None,
    batch_size: BatchSize = 32,
    max_length: MaxLength = None,
    sample: Annotated[bool | None, typer.Option("--sample", help="Draw words at random instead of searching.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of --sample: below 1 is cautious, above 1 varied.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Of --sample: draw from so many most probable words.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Of --sample: draw from words of this joint probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of --sample: makes it repeatable.")] = None,
) -> int:
    """Caption images.

    One image prints its caption alone; several, or a folder, print PATH, a tab and the caption.
    """
    given = {
        "beam_size": beam_size,
        "alternatives": alternatives,
        "max_length": max_length,
        "sample": sample,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
    }
    decoding = {name: value for name, value in given.items() if value is not None}
    _check_paths(paths, output)
    folders = any(os.path.isdir(path) for path in paths)
    several = folders or len(paths) > 1
    failed = 0

    def fail(message: str) -> None:
        nonlocal failed
        failed += 1
        _report(message)

    # What UTF-8 cannot hold are odd bytes of a file name; they pass as they are, but JSON needs an escape.
    errors = "backslashreplace" if as_json else "surrogateescape"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=errors)
    with output.open("w", encoding="utf-8", errors=errors) if output else nullcontext(sys.stdout) as file:
        from captioner.inference import Captioner

        captioner = Captioner.from_pretrained(model, backend=backend, device=device)
        names, sources = tee(_inputs(paths, fail))
        with closing(captioner.stream((s for _, s in sources), batch_size=batch_size, **decoding)) as results:
            pairs = zip(names, results, strict=False)
            for (name, _), result in _track(pairs, None if folders else len(paths), several and not file.isatty()):
                if isinstance(result, ImageError):
                    fail(f"{'standard input' if name == STANDARD_INPUT else name}: {result.reason}")
                else:
                    _write(file, name, result, as_json=as_json, with_name=several)
    return 1 if failed else 0


@_command
def evaluate(
    annotations: Annotated[Path, typer.Option(metavar="FILE", help="COCO captions JSON, CSV or JSON lines.")],
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Where image paths start.")] = None,
    results: Annotated[Path | None, typer.Option(metavar="FILE", help="Score these COCO results instead.")] = None,
    model: Model = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="For results.json and scores.json.")] = None,
    beam_size: BeamSize = None,
    backend: Backend = "auto",
    device: Device = None,
    batch_size: BatchSize = 32,
    max_length: MaxLength = None,
) -> int:
    """Caption annotated images and score the captions, or score finished results."""
    from captioner.evaluation.run import evaluate

    given = {"beam_size": beam_size, "max_length": max_length}
    scores = evaluate(
        annotations,
        images,
        model=model,
        results=results,
        output=output,
        backend=backend,
        device=device,
        batch_size=batch_size,
        track=lambda captions, total: _track(captions, total, True),
        **{name: value for name, value in given.items() if value is not None},
    )
    print(scores.as_table())
    return 0


@_command
def export(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Checkpoint folder.")]) -> int:
    """Write the ONNX pair of a checkpoint, so that it captions without torch."""
    from captioner.checkpoint import ONNX_PAIR, read_checkpoint

    read_checkpoint(folder)  # says what is wrong with the folder before torch is imported, which takes its time
    try:
        from captioner.export import export_onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("Exporting", "train") from error
    export_onnx(folder)
    for name in ONNX_PAIR:
        print(folder / name)
    return 0


@_command
def info(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Checkpoint folder.  [default: the bundled model]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> int:
    """Say what a checkpoint is."""
    from captioner.checkpoint import describe, read_checkpoint

    description = describe(read_checkpoint(folder))
    if as_json:
        print(json.dumps(description, indent=2))
        return 0
    files = {name: f"{size / 1e6:.1f} MB" for name, size in description.pop("files").items()}
    card = description.pop("card")
    for name, value in {**description.pop("architecture"), **description, "files": files}.items():
        text = ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, dict) else value
        print(f"{name.replace('_', ' '):16} {text}")
    if card:
        print("", *card, sep="\n")
    return 0


def _check_paths(paths: list[str], output: Path | None) -> None:
    """Find what is wrong with the call before anything runs."""
    from captioner.images import IMAGE_SUFFIXES

    if paths.count(STANDARD_INPUT) > 1:
        raise ConfigError("- is given twice; standard input can be read only once.")
    for path in paths:
        if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(f"{path}: the folder may not be read (permission denied).")
    if output is not None and output.suffix.lower() in IMAGE_SUFFIXES:
        raise ConfigError(f"--output {output} would overwrite an image; expected a text file, such as captions.txt.")


def _inputs(paths: Iterable[str], fail: Callable[[str], None]) -> Iterator[tuple[str, str | Path | bytes]]:
    """The name and the source of each image, found as they are needed."""
    from captioner.images import find_images

    for path in paths:
        if path == STANDARD_INPUT:
            yield path, sys.stdin.buffer.read()
        elif os.path.isdir(path):
            count = 0
            for count, image in enumerate(find_images(path), start=1):  # noqa: B007
                yield str(image), image
            if not count:
                fail(f"{path}: the folder has no images")
        else:
            yield path, path


def _write(file: TextIO, name: str, caption: "Caption", *, as_json: bool, with_name: bool) -> None:
    if as_json:
        print(json.dumps({"path": name, **caption.to_dict()}, ensure_ascii=False), file=file, flush=True)
        return
    for one in caption.alternatives or [caption]:
        print(f"{name}\t{one.text}" if with_name else one.text, file=file, flush=True)


def _track(items: Iterable[T], total: int | None, shown: bool) -> Iterator[T]:
    """Pass items on under a progress bar on stderr, if that is a terminal."""
    if not (shown and sys.stderr.isatty()):
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        yield from progress.track(items, total=total)


def _report(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
