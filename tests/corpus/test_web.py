"""Images, shards and tables from a web server that has its moods."""

import io
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.corpus import storage
from captioner.corpus.blocks import Block
from captioner.corpus.inputs import plan
from captioner.corpus.reading import read_block
from captioner.errors import DataError, ImageError
from tests.corpus.corpora import jpeg, write_shard
from tests.local_server import Quiet, running

IMAGE = jpeg(1)
BODIES = [np.random.default_rng(number).bytes(400_000) for number in range(18)]  # 7 MB


class Web:
    """What it has by path, and how often it was asked for each."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.tired = threading.Event()  # set when a silent answer may end


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()

    class Handler(Quiet):
        def do_GET(self) -> None:
            answer(self, web)

        do_HEAD = do_GET

    with running(Handler) as web.url:
        yield web
        web.tired.set()


def answer(request: BaseHTTPRequestHandler, web: Web) -> None:
    """Answer by the path: /403/x is forbidden, /busy/x is at the second time of asking, ..."""
    kind = request.path.split("/")[1]
    web.asked[kind] += 1
    body, status = web.files.get(request.path, IMAGE), 200
    if kind.isdigit():
        status = int(kind)
    elif kind == "busy" and web.asked[kind] == 1:
        status = 503
    headers = {"Content-Length": len(body)}
    given = request.headers.get("Range")
    if kind == "parts" and given:
        first, last = (int(text) for text in given.removeprefix("bytes=").split("-"))
        last = min(last, len(body) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"  # type: ignore[assignment]
        body, status = body[first : last + 1], 206
        headers["Content-Length"] = len(body)
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, str(value))
    request.end_headers()
    if request.command == "HEAD":
        return
    if kind in ("cut", "silent"):
        request.wfile.write(body[:100])
        request.wfile.flush()
        if kind == "silent":
            web.tired.wait(60)
        return
    request.wfile.write(body)


def test_each_image_that_fails_says_why(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    kinds = ["ok", "busy", "404", "403", "410", "cut", "crop::small"]
    images = read_block(Block("images", tuple(f"{web.url}/{kind}/1.jpg" for kind in kinds)))
    sources = {kind: image.source for kind, image in zip(kinds, images, strict=True)}
    for kind in ("ok", "busy", "crop::small"):
        assert sources[kind] == IMAGE, kind
    reasons = {
        "404": "does not exist",
        "403": "cannot be read (403",
        "410": "cannot be read (410",
        "cut": "cannot be read (Response payload is not completed",
    }
    for kind, reason in reasons.items():
        source = sources[kind]
        assert isinstance(source, ImageError) and source.reason.startswith(reason), source
    expected = {"ok": 1, "busy": 2, "404": 1, "403": 1, "410": 1, "cut": 3}
    assert {kind: web.asked[kind] for kind in expected} == expected


def test_a_server_that_falls_silent_is_not_waited_for(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SILENCE", 0.3)
    monkeypatch.setattr(storage, "_ATTEMPTS", 1)
    (image,) = read_block(Block("images", (f"{web.url}/silent/1.jpg",)))
    assert isinstance(image.source, ImageError)
    assert image.source.reason == "cannot be read (timed out)"


@pytest.mark.parametrize("kind", ["parts", "whole"])
def test_shards_and_tables_are_read_from_a_server_with_or_without_ranges(
    web: Web, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bodies = {f"{number:02}": body for number, body in enumerate(BODIES)}
    shard = write_shard(tmp_path_factory.mktemp("shard") / "a.tar", bodies)
    table = io.BytesIO()
    pq.write_table(pa.table({"jpg": BODIES}), table, row_group_size=5)
    web.files = {f"/{kind}/a.tar": shard.read_bytes(), f"/{kind}/a.parquet": table.getvalue()}
    for name, blocks in (("a.tar", 1), ("a.parquet", 4)):
        planned = list(plan(f"{web.url}/{kind}/{name}", block_size=5))
        assert len(planned) == blocks
        images = [image.source for block in planned for image in read_block(block)]
        assert images == BODIES, name


@pytest.mark.parametrize("kind", ["403", "404", "500"])
def test_a_corpus_that_the_server_does_not_give_is_named(web: Web, kind: str) -> None:
    with pytest.raises(DataError, match="/x does not exist, or its server denies access"):
        list(plan(f"{web.url}/{kind}/x"))
