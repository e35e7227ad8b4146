"""A small HTTP server that misbehaves on demand, and records requests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.local_server import Quiet, running


@dataclass
class Server:
    """What it serves, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # by path, without the first slash

    ranges: bool = True  # heeds the header Range
    length: bool = True  # says how long a file is
    shift: int = 0  # begins so many bytes behind what it was asked for
    claims: int | None = None  # says that a file is so long
    breaks: list[int] = field(
        default_factory=list
    )  # of each answer in turn, how many bytes it breaks off after
    wall: int | None = None  # never sends a byte of a file beyond this one
    stalls: threading.Event | None = None  # waits before the end of an answer until this is set
    statuses: list[int] = field(default_factory=list)  # of each answer in turn; 0 hangs up

    asked: list[tuple[str, str | None]] = field(default_factory=list)  # paths and Range headers


@contextmanager
def serve() -> Iterator[Server]:
    """A server on a free port of this machine."""
    server = Server()

    class Handler(Quiet):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # whoever asked has hung up
                answer(self, server)

    with running(Handler) as server.url:
        try:
            yield server
        finally:
            if server.stalls:
                server.stalls.set()


def answer(request: BaseHTTPRequestHandler, server: Server) -> None:
    path, wanted = request.path[1:], request.headers["Range"]
    server.asked.append((path, wanted))
    if status := server.statuses.pop(0) if server.statuses else None:
        request.send_error(status)
    if status is not None:
        return
    if path not in server.files:
        request.send_error(404)
        return
    content = server.files[path]
    total = len(content) if server.claims is None else server.claims
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
    start += server.shift if start else 0
    if start >= total:
        request.send_error(416)
        return
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
    if server.length:
        request.send_header("Content-Length", str(total - start))
    request.end_headers()
    end = start + server.breaks.pop(0) if server.breaks else len(content)
    request.wfile.write(content[start : end if server.wall is None else min(end, server.wall)])
    if server.stalls:
        server.stalls.wait(60)
