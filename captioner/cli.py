"""The `captioner` command: a client of the library that parses, calls and prints.

Results go to stdout, everything else to stderr. Exit status: 0 all done; 1 some inputs failed, each named on stderr;
2 the call itself was wrong. What a command needs is imported when it runs, so that `--help` takes a blink.
"""

import gc
import io
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from captioner.arguments import STANDARD_INPUT, parse
from captioner.errors import CaptionerError, ConfigError, ImageError, MissingExtraError

if TYPE_CHECKING:
    from captioner.explain.saving import AttentionFolder
    from captioner.inference import BackendName, Caption

T = TypeVar("T")

_SEARCH = ("beam_size", "alternatives", "max_length", "min_length", "length_penalty", "no_repeat_ngram", "style")
_DECODING = (*_SEARCH, "forbidden_endings", "include", "sample", "temperature", "top_k", "top_p", "seed")
_INTERRUPTED, _BROKEN_PIPE = 130, 141  # as shells count: 128 + SIGINT, 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; a user's mistake becomes one line on stderr.

    Args:
        argv: What follows `captioner`; this process's own arguments if None.

    Returns:
        The exit status.
    """
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except CaptionerError as error:
        _report(str(error))
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read the results has seen enough: | head
        _flush_or_drop()
        return _BROKEN_PIPE
    except OSError as error:
        _report(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        _flush_or_drop()
        return 2
    finally:
        if argv is None and "torch" not in sys.modules:  # what torch brings complains of what was not freed
            gc.freeze()  # or Python searches all that was imported for garbage before it ends, for 30 ms
    return status


def _flush_or_drop() -> None:
    """Write what stdout still holds or, if it cannot be written, let it vanish before Python tries at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str]) -> int:
    try:
        options = parse(argv)
    except SystemExit as end:
        return int(end.code or 0)
    import logging

    logging.basicConfig(format="%(levelname)s: %(message)s")
    commands = {
        "caption": caption,
        "evaluate": evaluate,
        "explain": explain,
        "demo": demo,
        "export": export,
        "info": info,
    }
    return commands[options.command](options)


def caption(options: Namespace) -> int:
    """Caption images."""
    paths: list[str] = options.operands
    output: Path | None = options.output
    _check_paths(paths, output)
    folders = any(os.path.isdir(path) for path in paths)
    several = folders or len(paths) > 1
    failed = 0

    def fail(message: str) -> None:
        nonlocal failed
        failed += 1
        _report(message)

    # What UTF-8 cannot hold are odd bytes of a file name; they pass as they are, but JSON needs an escape.
    errors = "backslashreplace" if options.json else "surrogateescape"
    _print_odd_characters(errors)
    with output.open("w", encoding="utf-8", errors=errors) if output else nullcontext(sys.stdout) as file:
        from captioner.inference import Captioner

        captioner = Captioner.from_pretrained(options.model, backend=options.backend, device=options.device)
        attention = _attention_folder(options.save_attention)
        names, sources = tee(_inputs(paths, fail))
        with closing(captioner.stream((s for _, s in sources), **_given(options))) as results:
            pairs = zip(names, results, strict=False)
            for (name, _), result in _track(pairs, None if folders else len(paths), several and not file.isatty()):
                if isinstance(result, ImageError):
                    fail(f"{'standard input' if name == STANDARD_INPUT else name}: {result.reason}")
                else:
                    if attention is not None:
                        attention.save(None if name == STANDARD_INPUT else name, result)
                    _write(file, name, result, as_json=options.json, with_name=several)
    return 1 if failed else 0


def evaluate(options: Namespace) -> int:
    """Caption annotated images and score the captions, or score finished results."""
    from captioner.evaluation.evaluate import evaluate
    from captioner.evaluation.report import as_text

    failed: list[str] = []

    def fail(message: str) -> None:
        failed.append(message)
        _report(message)

    running = _given(options, "model", "backend", "device")
    if options.results is not None and running:
        name = next(iter(running)).replace("_", "-")
        raise ConfigError(f"Finished results are scored as they are, by no model; leave out --{name}, or --results.")
    evaluation = evaluate(
        options.annotations,
        options.images,
        split=options.split,
        results=options.results,
        against=options.compare,
        output=options.output,
        metrics=[name.strip() for name in options.metrics.split(",")],
        allow_missing=options.allow_missing,
        training_captions=options.training_captions,
        instances=options.instances,
        track=lambda items, total: _track(items, total, True),
        fail=fail,
        **running,
    )
    _print_odd_characters("backslashreplace")
    print(as_text(evaluation))
    return 1 if failed else 0


def explain(options: Namespace) -> int:
    """Caption a photo and show for each word where the model looked."""
    from captioner.explain import check_output, explain
    from captioner.inference import Captioner

    (path,) = options.operands
    check_output(options.output)
    if os.path.exists(path) and options.output.exists() and os.path.samefile(path, options.output):
        raise ConfigError(f"--output {options.output} would overwrite the photo; expected another name.")
    backend: BackendName = options.backend
    if options.method == "gradient" and backend == "auto":
        backend = "torch"
    captioner = Captioner.from_pretrained(options.model, backend=backend, device=options.device)
    try:
        image = sys.stdin.buffer.read() if path == STANDARD_INPUT else path
        explanation = explain(captioner, image, options.method, **_given(options))
    except ImageError as error:
        _report(f"{'standard input' if path == STANDARD_INPUT else path}: {error.reason}")
        return 1
    explanation.save(options.output)
    print(explanation.caption.text)
    return 0


def demo(options: Namespace) -> int:
    """Serve the demo until Ctrl-C, or until it is told to end."""
    try:
        from captioner.demo.server import serve
    except ModuleNotFoundError as error:
        raise MissingExtraError("The demo", "demo") from error
    models = options.model or [None]
    if len(models) > 1:
        raise ConfigError("The demo shows one model; name one --model.")
    serve(
        models[0],
        backend=options.backend,
        device=options.device,
        host=options.host,
        port=options.port,
        share=options.share,
        started=lambda url: print(f"The demo is at {url} (Ctrl-C ends it)", flush=True),
    )
    return 0


def export(options: Namespace) -> int:
    """Write the ONNX pair of a checkpoint, so that it captions without torch."""
    from captioner.checkpoint import ONNX_PAIR, read_checkpoint

    folder = Path(*options.operands)
    read_checkpoint(folder)  # says what is wrong with the folder before torch is imported, which takes its time
    try:
        from captioner.export import export_onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("Exporting", "train") from error
    export_onnx(folder)
    for name in ONNX_PAIR:
        print(folder / name)
    return 0


def info(options: Namespace) -> int:
    """Say what a checkpoint is."""
    from captioner.checkpoint import describe, read_checkpoint

    description = describe(read_checkpoint(*options.operands))
    if options.json:
        print(json.dumps(description, indent=2))
        return 0
    files = {name: f"{size / 1e6:.1f} MB" for name, size in description.pop("files").items()}
    card = description.pop("card")
    for name, value in {**description.pop("architecture"), **description, "files": files}.items():
        text = ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, dict) else value
        text = ", ".join(text) if isinstance(text, list) else text
        print(f"{name.replace('_', ' '):16} {text}")
    if card:
        print("", *card, sep="\n")
    return 0


def _given(options: Namespace, *more: str) -> dict[str, Any]:
    """The batch size, and what the user said about the decoding or more; all else is the model's business."""
    given = {name: getattr(options, name, None) for name in (*more, "batch_size", *_DECODING)}
    return {name: value for name, value in given.items() if value is not None}


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


def _attention_folder(folder: Path | None) -> "AttentionFolder | None":
    if folder is None:
        return None
    from captioner.explain.saving import AttentionFolder

    return AttentionFolder(folder)


def _write(file: TextIO, name: str, caption: "Caption", *, as_json: bool, with_name: bool) -> None:
    if as_json:
        print(json.dumps({"path": name, **caption.to_dict()}, ensure_ascii=False), file=file, flush=True)
        return
    for one in caption.alternatives or [caption]:
        print(f"{name}\t{one.text}" if with_name else one.text, file=file, flush=True)


def _print_odd_characters(errors: str) -> None:
    """Say what becomes of what stdout's encoding cannot hold; by itself it ends with a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=errors)


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
