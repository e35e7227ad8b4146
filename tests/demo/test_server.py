"""The demo's API and its protection against abuse, over HTTP."""

import json
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from captioner.decoding.options import decoding_options
from captioner.demo.answers import api_answer
from captioner.demo.limits import LONGEST_VISIT, REQUEST_SIZE, UPLOAD_SIZE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "pagoda.jpg"


@pytest.fixture(scope="module")
def client(url):
    from gradio_client import Client

    return Client(url, verbose=False)


def send(photo):
    from gradio_client import handle_file

    return handle_file(photo)


def ask(url: str, path: str, beam_size: int | None = None) -> str:
    """The server's response to a request for the caption of this file, without a client."""
    photo = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [photo, beam_size, *[None] * (len(decoding_options()) - 1)]}
    event = httpx.post(f"{url}/gradio_api/call/caption", json=body, timeout=60).json()["event_id"]
    return httpx.get(f"{url}/gradio_api/call/caption/{event}", timeout=60).text


def uploads() -> set[str]:
    """The names of the files in the server's folder that are no examples."""
    files = {path.name for path in folder().rglob("*") if path.is_file()}
    return files - {path.name for path in (ROOT / "examples").iterdir()}


def folder() -> Path:
    """The server's folder of uploads."""
    return Path(os.environ["GRADIO_TEMP_DIR"])


def test_the_api_answers_as_the_command_does(client, bundled):
    assert client.predict(send(PHOTO), api_name="/caption") == api_answer(
        bundled, PHOTO, PHOTO.name, {}
    )
    options = {
        "beam_size": 4,
        "alternatives": 2,
        "max_length": 9,
        "forbidden_endings": ["pagoda", "trees"],
    }
    answer = client.predict(photo=send(PHOTO), **options, api_name="/caption")
    assert answer == api_answer(bundled, PHOTO, PHOTO.name, options)
    sampling = {"sample": True, "temperature": 0.8, "top_k": 50, "seed": 3, "alternatives": 4}
    answer = client.predict(photo=send(PHOTO), **sampling, api_name="/caption")
    assert answer == api_answer(bundled, PHOTO, PHOTO.name, sampling)


def test_the_api_says_what_it_takes(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == ["/caption"]
    photo, *options = endpoints["/caption"]["parameters"]
    assert photo["parameter_name"] == "photo" and not photo["parameter_has_default"]
    assert [option["parameter_name"] for option in options] == [
        option.name for option in decoding_options()
    ]
    assert all(
        option["parameter_has_default"] and option["parameter_default"] is None
        for option in options
    )


def test_the_api_explains_what_it_refuses_and_keeps_nothing(client, tmp_path):
    notes = tmp_path / "notes.jpg"
    notes.write_text("dear diary")
    with pytest.raises(Exception, match=r"“notes\.jpg”: is not an image, or damaged"):
        client.predict(send(notes), api_name="/caption")
    with pytest.raises(Exception, match="beam_size is 5000; this demo allows at most 20"):
        client.predict(send(PHOTO), beam_size=5000, api_name="/caption")
    with pytest.raises(Exception, match="photo is not an uploaded file"):
        client.predict("photo.jpg", api_name="/caption")
    assert not uploads()


def test_many_may_send_the_same_photo_at_once(url, client, bundled):
    expected = api_answer(bundled, PHOTO, PHOTO.name, {"beam_size": 2})
    uploaded = [
        httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.jpg", PHOTO.read_bytes())})
        for _ in "abcd"
    ]
    assert len({answer.text for answer in uploaded}) == 1, "they share a file"
    for answer in uploaded:  # those that still wait keep it
        said = ask(url, answer.json()[0], 2)
        assert json.loads(said.partition("data: ")[2]) == [expected]
    with ThreadPoolExecutor(4) as threads:
        jobs = [
            threads.submit(client.predict, send(PHOTO), 2, api_name="/caption") for _ in range(8)
        ]
        assert [job.result() for job in jobs] == [expected] * 8
    assert not uploads()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ROOT / "pyproject.toml"), "{folder}/../../etc/passwd", "{folder}"]
)
def test_the_files_of_the_server_are_not_served(url, path):
    path = path.format(folder=os.environ["GRADIO_TEMP_DIR"])
    answer = httpx.get(f"{url}/gradio_api/file={path}", timeout=60)
    assert answer.status_code == 403
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "form", ["file=http://127.0.0.1:9/x", "file=https://example.com/x.png", "file=HTTP://a.de"]
)
def test_the_server_fetches_nothing_for_its_visitors(url, form):
    assert httpx.get(f"{url}/gradio_api/{form}", timeout=60).status_code == 403


@pytest.mark.parametrize("path", ["http://example.com/x.png", "HTTPS://example.com/x.png"])
def test_a_url_is_not_accepted_as_an_upload(url, path):
    photo = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for address in ("call/caption", "queue/join"):
        answer = httpx.post(f"{url}/gradio_api/{address}", json={"data": [photo]}, timeout=60)
        assert answer.status_code == 403


def test_a_file_of_the_server_cannot_be_captioned(url):
    answer = ask(url, str(PHOTO))
    assert "event: error" in answer
    assert 'caption":' not in answer
    (uploaded,) = httpx.post(
        f"{url}/gradio_api/upload", files={"files": ("a.jpg", PHOTO.read_bytes())}
    ).json()
    assert 'caption":' in ask(url, uploaded), "it was asked rightly"


def test_the_path_of_an_upload_cannot_be_guessed(url):
    answer = httpx.post(
        f"{url}/gradio_api/upload", files={"files": ("mine.bin", b"secret")}, timeout=60
    )
    (path,) = json.loads(answer.text)
    own = Path(path).parent
    assert len(own.name) == 64, "named by SHA-256 of the content"
    for guess in (own, own.parent, f"{own}/../"):
        assert httpx.get(f"{url}/gradio_api/file={guess}", timeout=60).status_code == 403
    Path(path).unlink()


def test_too_large_requests_are_refused(url):
    upload = httpx.post(
        f"{url}/gradio_api/upload", files={"files": ("a.jpg", bytes(UPLOAD_SIZE + 1))}, timeout=60
    )
    assert upload.status_code == 413
    body = {"data": ["x" * REQUEST_SIZE]}
    for address in ("call/caption", "call/upload", "run/upload"):
        answer = httpx.post(f"{url}/gradio_api/{address}", json=body, timeout=60)
        assert answer.status_code == 413, address
    assert not uploads()


@pytest.mark.parametrize("form", ["several files", "a field without a file"])
def test_an_upload_is_no_larger_than_a_photo_may_be(url, form):
    half = bytes(UPLOAD_SIZE // 2)
    photos = [("files", (f"{number}.jpg", half + bytes([number]))) for number in range(3)]
    sent = {"files": photos} if form == "several files" else {"data": {"a": "x" * UPLOAD_SIZE * 2}}
    files = sent.pop("files", [("files", ("a.jpg", b"photo"))])
    answer = httpx.post(f"{url}/gradio_api/upload", files=files, **sent, timeout=60)
    assert answer.status_code == 413
    assert not uploads()


def test_what_a_visitor_sees_is_not_kept_for_links(url):
    answer = httpx.get(f"{url}/gradio_api/deep_link", params={"session_hash": "ann"}, timeout=60)
    assert answer.status_code == 403


def test_nothing_stays_of_an_upload_that_breaks_off(url):
    boundary = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    head = (
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: demo\r\nContent-Length: 1000000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head + boundary + bytes(100_000))
        wait_until(uploads)
    wait_until(lambda: not uploads())


def test_files_that_gradio_loses_are_deleted_after_an_hour(url):
    def send_in_other_field() -> None:
        httpx.post(f"{url}/gradio_api/upload", files={"other": ("a.jpg", b"photo")}, timeout=60)

    send_in_other_field()
    (lost,) = (path for path in folder().iterdir() if path.is_file())
    send_in_other_field()
    assert lost.exists()
    hour_ago = time.time() - LONGEST_VISIT - 60
    os.utime(lost, (hour_ago, hour_ago))
    send_in_other_field()
    assert not lost.exists()
    assert len(uploads()) == 2
    for path in folder().iterdir():
        if path.is_file():
            path.unlink()


def wait_until(happened: Callable[[], object]) -> None:
    """Wait for what the server does, for at most a minute."""
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_browsers_are_told_to_load_nothing_from_elsewhere(url):
    answer = httpx.get(url, timeout=60)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "fonts.googleapis.com" not in answer.text
