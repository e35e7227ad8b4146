"""Serve the page on a port, hardened against abuse."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from captioner.checkpoint import describe, read_checkpoint
from captioner.demo import limits
from captioner.demo.blocks import build_app, look
from captioner.demo.card import Card, read_card
from captioner.demo.corrections import Corrections
from captioner.demo.visits import Visits
from captioner.errors import ConfigError
from captioner.images import find_images
from captioner.inference import Captioner

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# The browser blocks everything from other servers. Gradio uses inline scripts and compiles
# templates.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self'"
    " 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:;"
    " worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)


def serve(
    model: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    corrections: str | os.PathLike[str] | None = None,
    started: Callable[[str], object],
) -> None:
    """Serve a model's demo until Ctrl-C or SIGTERM. Call it from the main thread.

    Args:
        model: The checkpoint folder; the bundled model if None.
        backend: See `Captioner.from_pretrained`.
        device: See `Captioner.from_pretrained`.
        host: See `serving`.
        port: See `serving`.
        share: See `serving`.
        corrections: The CSV file for better captions by visitors; None to ask for none.
        started: Called with the URL once the demo is available.

    Raises:
        CaptionerError: The model cannot be loaded, or the address cannot be used.
    """
    kept = None if corrections is None else Corrections(corrections)
    card = read_card(describe(read_checkpoint(model)))
    captioner = Captioner.from_pretrained(model, backend=backend, device=device)
    before = signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # shuts down cleanly, like Ctrl-C
    try:
        with serving(
            captioner,
            card=card,
            examples=find_examples(),
            host=host,
            port=port,
            share=share,
            corrections=kept,
        ) as url:
            started(url)
            while True:
                time.sleep(1)  # another thread may take the signal, which does not wake this one
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def find_examples() -> list[Path]:
    """Return the repository's example photos; an installed package has none."""
    root = Path(__file__).parents[2]
    folder = root / "examples"
    return (
        list(find_images(folder)) if (root / "pyproject.toml").is_file() and folder.is_dir() else []
    )


@contextmanager
def serving(
    captioner: Captioner,
    *,
    card: Card | None = None,
    examples: Sequence[Path] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    corrections: Corrections | None = None,
) -> Iterator[str]:
    """Serve the demo within the context; uploads go to a temporary folder, deleted at the end.

    Gradio reads that folder from the environment, so a process can serve only one demo at a time.

    Args:
        captioner: The model.
        card: Facts about the model to show.
        examples: Example photos to offer.
        host: The address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for its network.
        port: The port; the first free port from 7860 if None.
        share: Also create a public URL for some days, through a tunnel of gradio.live.
        corrections: Saves better captions by visitors with their consent; None to ask for none.

    Yields:
        The URL; the public one if shared.

    Raises:
        ConfigError: The port is taken, or the address is not this machine's.
    """
    if port is not None and not 1 <= port <= 65535:
        raise ConfigError(f"port is {port}; expected 1 to 65535.")
    with tempfile.TemporaryDirectory(
        prefix="captioner-demo-", ignore_cleanup_errors=True
    ) as folder:
        places = {
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_EXAMPLES_CACHE": os.path.join(folder, "examples"),
        }
        with _environment(places):
            visits = Visits()
            app = build_app(
                captioner, card=card, examples=examples, visits=visits, corrections=corrections
            )
            app.queue(max_size=limits.QUEUE_LENGTH, api_open=False)
            try:
                _, local, public = app.launch(
                    server_name=host,
                    server_port=port,
                    share=share,
                    prevent_thread_lock=True,
                    quiet=True,
                    max_file_size=limits.UPLOAD_SIZE,
                    allowed_paths=[],
                    show_error=False,
                    run_history=False,
                    enable_monitoring=False,
                    pwa=False,
                    ssr_mode=False,
                    mcp_server=False,
                    app_kwargs={"middleware": [Middleware(Guard, Path(folder), visits.expect)]},
                    **look(),
                )
            except OSError as error:
                ports = "ports 7860 to 7959" if port is None else f"port {port}"
                raise ConfigError(
                    f"The demo cannot listen on {host}, {ports}: the port is in use, or the"
                    " address is not this machine's. Choose another with --port or --host."
                ) from error
            try:
                yield (public or local).rstrip("/")
            finally:
                app.close(verbose=False)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Guard:
    """Middleware that limits requests and sets a strict content security policy.

    Gradio would fetch a URL that is given in place of a file; this server makes no requests. It
    would also take any number of files and fields in an upload, and write what a visitor sees, the
    photo too, into files for links to it, which outlive the visit.

    Args:
        app: The app that answers all other requests.
        folder: The folder of uploads.
        uploaded: Called with each uploaded file before the response is sent.
    """

    def __init__(self, app: Application, folder: Path, uploaded: Callable[[Path], object]) -> None:
        self._app = app
        self._folder = folder
        self._uploaded = uploaded

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it to the app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if "://" in path or "http:/" in path or "https:/" in path:
            await PlainTextResponse("No files of other servers.", 403)(scope, receive, send)
            return
        if path.endswith("/gradio_api/deep_link"):
            await PlainTextResponse("No links to results.", 403)(scope, receive, send)
            return
        uploading = scope["method"] == "POST" and path.endswith("/gradio_api/upload")
        answer = b""
        if uploading:
            _remove_strays(self._folder)
            receive = _limited(receive)
        elif scope["method"] == "POST":
            body = await _read(receive)
            if body is None or _names_url(body):
                refusal = (
                    ("Too large a request.", 413)
                    if body is None
                    else ("Upload the photo itself.", 403)
                )
                await PlainTextResponse(*refusal)(scope, receive, send)
                return
            receive = _replay(body, receive)

        async def send_with_policy(message: Message) -> None:
            nonlocal answer
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", _POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message["headers"] = [*message.get("headers", []), *headers]
            elif uploading:
                answer += bytes(message.get("body", b""))
                if not message.get("more_body", False):
                    for file in _files_in(answer):
                        self._uploaded(file)
            await send(message)

        await self._app(scope, receive, send_with_policy)


def _limited(receive: Receive) -> Receive:
    """Return a `receive` that ends an upload that is too large or broken off.

    It raises the error on which Gradio deletes what it has written of the upload.
    """
    size, complete = 0, False

    async def limited() -> Message:
        nonlocal size, complete
        message = await receive()
        if message["type"] == "http.disconnect" and not complete:
            raise MultiPartException("The upload was broken off.")
        size += len(message.get("body", b""))
        if size > limits.UPLOAD_SIZE + limits.REQUEST_SIZE:
            raise MultiPartException("The upload exceeds the maximum allowed size.")
        complete = not message.get("more_body", False)
        return message

    return limited


def _remove_strays(folder: Path) -> None:
    """Delete old files that Gradio has lost: those of uploads in other fields than its own.

    Uploads that it knows are in folders.
    """
    oldest = time.time() - limits.LONGEST_VISIT
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # an upload that has just become complete
            if entry.is_file() and entry.stat().st_mtime < oldest:
                os.unlink(entry)


def _files_in(answer: bytes) -> list[Path]:
    """Return the paths in the response to an upload; empty if the upload was rejected."""
    try:
        paths = json.loads(answer)
    except ValueError:
        return []
    return [Path(path) for path in paths] if isinstance(paths, list) else []


async def _read(receive: Receive) -> bytes | None:
    """Read the body of a request; None if it is too large."""
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > limits.REQUEST_SIZE:
            return None
        if not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then further messages."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _names_url(body: bytes) -> bool:
    """Return whether a request has a file that would be fetched from a URL."""
    try:
        queue = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while queue:
        value = queue.pop()
        if isinstance(value, dict):
            if str(value.get("path", "")).strip().lower().startswith(("http:", "https:")):
                return True
            queue.extend(value.values())
        elif isinstance(value, list):
            queue.extend(value)
    return False
