"""A local hub with the few calls that models need: create, fill, list and read a repository."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.local_server import Quiet, running

COMMIT = "c" * 40
MEMBER = "hf_member"  # the token of who may read private repositories
EXPIRED = "hf_expired"
_LARGE = 100_000  # bytes; from here on a file goes by LFS


@dataclass
class Hub:
    """Its files by repository, and what it was asked."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: set[str] = field(default_factory=lambda: {"main"})
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)  # listed for all, read by nobody
    damaged: set[str] = field(default_factory=set)  # files that are sent with a wrong byte
    breaking: set[str] = field(default_factory=set)  # large files that are cut off once
    is_down: bool = False
    large: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()

    class Handler(Quiet):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            read(self, hub)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            write(self, hub)

        do_PUT = do_POST

    with running(Handler) as hub.url:
        yield hub


def send(
    request: BaseHTTPRequestHandler,
    content: object,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def oid_of(content: bytes) -> str:
    """What git names a file by."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def read(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    path = request.path.partition("?")[0]
    hub.asked.append(f"{request.command} {path}")
    token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
    if hub.is_down:
        send(request, {}, 503)
    elif path.startswith("/content/"):
        send_large(request, hub, path.removeprefix("/content/"))
    elif token == EXPIRED:
        send(request, {}, 401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    else:
        read_repository(request, hub, path, token)


def read_repository(request: BaseHTTPRequestHandler, hub: Hub, path: str, token: str) -> None:
    found = re.fullmatch(
        r"(?:/api/models)?/([\w.-]+/[\w.-]+)/(revision|tree|resolve)/([^/]+)/?(.*)", path
    )
    files = hub.repositories.get(found[1]) if found else None
    if found is None or files is None or (found[1] in hub.private and token != MEMBER):
        send(request, {"error": "none"}, 401, {"X-Error-Code": "RepoNotFound"})
        return
    kind, revision, name = found[2], found[3], found[4]
    if revision not in (*hub.branches, COMMIT):
        send(request, {"error": "none"}, 404, {"X-Error-Code": "RevisionNotFound"})
    elif kind == "revision":
        siblings = [{"rfilename": each} for each in files]
        send(request, {"id": found[1], "sha": COMMIT, "siblings": siblings, "tags": []})
    elif kind == "tree":
        send(request, [listed(each, content) for each, content in files.items()])
    elif found[1] in hub.gated:
        send(request, {"error": "none"}, 403, {"X-Error-Code": "GatedRepo"})
    elif len(files[name]) >= _LARGE:
        oid = hashlib.sha256(files[name]).hexdigest()
        headers = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(files[name]))}
        place = f"{hub.url}/content/{found[1]}/{name}".replace("127.0.0.1", "localhost")
        send(request, b"", 302, {**headers, "X-Repo-Commit": COMMIT, "Location": place})
    else:
        headers = {"ETag": f'"{oid_of(files[name])}"', "X-Repo-Commit": COMMIT}
        send(request, sent_of(hub, name, files[name]), headers=headers)


def sent_of(hub: Hub, name: str, content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1]) if name in hub.damaged else content


def send_large(request: BaseHTTPRequestHandler, hub: Hub, path: str) -> None:
    """Send a large file, or the rest of one; it lies on another host, which asks for no token."""
    owner, repository, name = path.split("/")
    content = sent_of(hub, name, hub.repositories[f"{owner}/{repository}"][name])
    size, status, headers = len(content), 200, {}
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
    if asked:
        hub.asked[-1] += f" from {asked[1]}"
        first = int(asked[1])
        headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        content, status = content[first:], 206
    if name in hub.breaking:
        hub.breaking.remove(name)
        headers["Content-Length"] = str(len(content))
        send(request, content[: len(content) // 2], status, headers)
        request.close_connection = True
        return
    send(request, content, status, headers)


def listed(name: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file",
        "path": name,
        "size": len(content),
        "oid": oid_of(content),
    }
    if len(content) >= _LARGE:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry


def write(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    path = request.path.partition("?")[0]
    hub.asked.append(f"{request.command} {path}")
    body = request.rfile.read(int(request.headers["Content-Length"]))
    if path.startswith("/large/"):
        oid = path.removeprefix("/large/")
        assert hashlib.sha256(body).hexdigest() == oid
        hub.large[oid] = body
        send(request, {})
    elif path == "/api/repos/create":
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        hub.repositories.setdefault(name, {})
        send(request, {"url": f"{hub.url}/{name}", "name": name})
    elif path == "/api/validate-yaml":
        send(request, {"errors": [], "warnings": []})
    elif "/branch/" in path:
        branch = path.rpartition("/")[2]
        send(request, {}, 409 if branch in hub.branches else 201)
        hub.branches.add(branch)
    elif re.search("/(preupload|commit)/", path) and path.rpartition("/")[2] not in hub.branches:
        send(request, {"error": "none"}, 404, {"X-Error-Code": "RevisionNotFound"})
    elif "/preupload/" in path:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= _LARGE else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        send(request, {"files": files})
    elif path.endswith("/info/lfs/objects/batch"):
        objects = [
            {**each, "actions": {"upload": {"href": f"{hub.url}/large/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        send(request, {"transfer": "basic", "objects": objects})
    elif "/commit/" in path:
        url = f"{hub.url}/{commit(hub, path, body)}/commit/{COMMIT}"
        send(request, {"commitUrl": url, "commitOid": COMMIT, "success": True})
    else:
        send(request, {"error": path}, 404)


def commit(hub: Hub, path: str, body: bytes) -> str:
    """Take the files of a commit; the name of its repository."""
    name = path.removeprefix("/api/models/").partition("/commit/")[0]
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            hub.repositories[name][value["path"]] = hub.large[value["oid"]]
    return name
