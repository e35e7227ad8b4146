"""Models go to a hub and come from it, over HTTP to a server of this machine."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.checkpoint import BUNDLED, FILES
from captioner.cli import main
from captioner.hub.sharing import card_with_metadata, scores_in
from tests.hub.server import EXPIRED, MEMBER, Hub, serve

yaml = pytest.importorskip("yaml")
pytest.importorskip("huggingface_hub")

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "cat.jpg"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def runner(folder: Path, hub: Hub) -> Run:
    """Runs the command in a process of its own: the library reads its settings once."""

    def call(*args: object, **settings: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "cache"),
            "HF_TOKEN": "hf_none",
            "HF_HUB_DISABLE_XET": "1",  # plain HTTP
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **settings,
        }
        command = [sys.executable, "-m", "captioner", *map(str, args)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return call


def metadata(card: str) -> dict[str, object]:
    assert card.startswith("---\n")
    return yaml.safe_load(card[4:].partition("\n---\n")[0])


def test_a_model_is_sent_fetched_and_used_offline(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED, folder)
    (folder / "private.txt").write_text("stays at home")
    with serve() as hub:
        run = runner(tmp_path, hub)
        sent = run("push", folder, "me/tiny", "--license", "mit")
        assert sent.returncode == 0, sent.stderr
        assert sent.stdout.strip() == f"{hub.url}/me/tiny"
        files = hub.repositories["me/tiny"]
        assert set(files) == set(FILES)
        for name in set(FILES) - {"README.md"}:
            assert files[name] == (BUNDLED / name).read_bytes()
        card = files["README.md"].decode()
        assert card.endswith((BUNDLED / "README.md").read_text(encoding="utf-8"))
        told = metadata(card)
        assert (told["pipeline_tag"], told["license"]) == ("image-to-text", "mit")
        first = told["model-index"][0]["results"][0]
        assert first["dataset"]["name"] == "everyday photos of COCO, 158"
        assert {each["name"]: each["value"] for each in first["metrics"]}["CIDEr-D"] == 70.9

        files["modeling.py"] = b"raise SystemExit('executed')"
        expected = run("caption", PHOTO).stdout
        fetched = run("caption", PHOTO, "--model", "hf://me/tiny")
        assert (fetched.stdout, fetched.returncode) == (expected, 0), fetched.stderr
        assert not [path for path in hub.asked if "modeling.py" in path]
        assert not list((tmp_path / "cache").rglob("modeling.py"))
    offline = run("caption", PHOTO, "--model", "hf://me/tiny")
    assert (offline.stdout, offline.returncode) == (expected, 0), offline.stderr
    missing = run("caption", PHOTO, "--model", "hf://me/other@v1")
    assert missing.returncode == 2 and "cannot be reached" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_what_is_damaged_or_not_there_is_said(tmp_path: Path) -> None:
    with serve() as hub:
        run = runner(tmp_path, hub)
        for name in ("me/tiny", "me/private", "me/gated"):
            hub.repositories[name] = {each: (BUNDLED / each).read_bytes() for each in FILES}
        hub.damaged, hub.private, hub.gated = {"model.safetensors"}, {"me/private"}, {"me/gated"}
        for model, token, reason in (
            ("hf://me/tiny", "hf_none", "model.safetensors is damaged: its checksum doesn't match"),
            ("hf://me/nothing", "hf_none", "The hub has no model hf://me/nothing"),
            ("hf://me/tiny@v9", "hf_none", "no such revision"),
            ("hf://me/private", "hf_none", "or it is private. Check its name, or run: hf auth"),
            ("hf://me/gated", MEMBER, "is gated: request access on its page"),
            ("hf://me/private", EXPIRED, "The hub rejected your token"),
        ):
            done = run("info", model, HF_TOKEN=token)
            assert done.returncode == 2
            assert done.stderr.startswith("error: ") and reason in done.stderr, done.stderr


def test_a_private_model_is_fetched_over_a_line_that_breaks(tmp_path: Path) -> None:
    with serve() as hub:
        run = runner(tmp_path, hub)
        hub.repositories["me/tiny"] = {name: (BUNDLED / name).read_bytes() for name in FILES}
        hub.private, hub.breaking = {"me/tiny"}, {"model.safetensors"}
        done = run("info", "hf://me/tiny", HF_TOKEN=MEMBER)
        assert done.returncode == 0, done.stderr
        weights = "GET /content/me/tiny/model.safetensors"
        first, second = (path for path in hub.asked if path.startswith(weights))
        size = (BUNDLED / "model.safetensors").stat().st_size
        assert first == weights
        assert 0 < int(second.removeprefix(f"{weights} from ")) <= size // 2

        hub.asked.clear()
        assert run("info", "hf://me/tiny", HF_TOKEN=MEMBER).returncode == 0
        assert not [path for path in hub.asked if "/resolve/" in path or "/content/" in path]
        hub.asked.clear()
        offline = run("info", "hf://me/tiny", HF_HUB_OFFLINE="1")
        assert (offline.stdout, offline.returncode) == (done.stdout, 0), offline.stderr
        assert not hub.asked
        hub.is_down = True
        assert run("info", "hf://me/tiny").stdout == done.stdout


def test_a_download_that_was_stopped_is_completed(tmp_path: Path) -> None:
    with serve() as hub:
        run = runner(tmp_path, hub)
        files = {name: (BUNDLED / name).read_bytes() for name in FILES}
        hub.repositories["me/tiny"] = files
        assert run("info", "hf://me/tiny").returncode == 0
        for path in (tmp_path / "cache").rglob("model.safetensors"):
            path.resolve().unlink()
            path.unlink()
        offline = run("info", "hf://me/tiny", HF_HUB_OFFLINE="1")
        assert offline.returncode == 2 and "not completely cached" in offline.stderr, offline.stderr
        hub.asked.clear()
        assert run("info", "hf://me/tiny").returncode == 0
        assert {path for path in hub.asked if path.startswith("GET /content/")} == {
            "GET /content/me/tiny/model.safetensors"
        }


class Executed:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.place,)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    pickled = pickle.dumps(Executed(trap))
    with serve() as hub:
        run = runner(tmp_path, hub)
        torch_only = {"pytorch_model.bin": pickled, "config.json": b'{"model_type": "blip"}'}
        disguised = {name: (BUNDLED / name).read_bytes() for name in FILES}
        disguised["model.safetensors"] = pickled
        hub.repositories = {
            "me/empty": {},
            "me/pickle": {"pytorch_model.bin": pickled},
            "me/torch": torch_only,
            "me/disguised": {name: disguised[name] for name in FILES if "onnx" not in name},
        }
        for name, reason in (
            ("empty", "hf://me/empty is not a captioner model: it has no config.json or vocab"),
            ("pickle", "hf://me/pickle is not a captioner model: it has no config.json or vocab"),
            ("torch", "hf://me/torch is not a captioner model: it has no vocabulary.json"),
            ("disguised", "model.safetensors"),
        ):
            done = run("caption", PHOTO, "--model", f"hf://me/{name}")
            assert done.returncode == 2, name
            assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
            assert reason in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert not [path for path in hub.asked if "pytorch_model.bin" in path]
    assert not trap.exists()
    pickle.loads(pickled)
    assert trap.exists()  # it would have been


def test_a_branch_is_made_for_a_model(tmp_path: Path) -> None:
    with serve() as hub:
        run = runner(tmp_path, hub)
        for _ in range(2):
            sent = run("push", BUNDLED, "me/tiny", "--revision", "v2")
            assert sent.returncode == 0, sent.stderr
        assert hub.branches == {"main", "v2"}
        assert "POST /api/models/me/tiny/commit/v2" in hub.asked
        assert run("info", "hf://me/tiny@v2").returncode == 0


@pytest.mark.parametrize("model", ["hf://me", "hf://me/a/b", "hf://me/a@", "hf://../a b"])
def test_what_is_no_name_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", model]) == 2
    assert "expected hf://owner/name" in capsys.readouterr().err
    assert main(["push", str(BUNDLED), model]) == 2
    assert "expected owner/name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "model",
    ["HF://me/tiny", "hf:me/tiny", "https://huggingface.co/me/tiny", "huggingface.co/me/tiny"],
)
def test_an_address_is_told_how_models_of_the_hub_are_named(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for call in (["info", model], ["caption", str(PHOTO), "--model", model]):
        assert main(call) == 2
        assert "expected hf://owner/name for one on the hub" in capsys.readouterr().err


def test_a_folder_may_be_named_like_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(BUNDLED, tmp_path / "huggingface.co" / "me" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert main(["info", "huggingface.co/me/tiny"]) == 0
    assert "encoder" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["me/.git", "me/a..b", "me--a/b-"])
def test_a_name_that_the_hub_forbids_is_not_tried_again(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for call in (["info", f"hf://{name}"], ["push", str(BUNDLED), name]):
        assert main(call) == 2
        said = capsys.readouterr().err
        assert name in said and "Try again" not in said and "log" not in said, said


@pytest.mark.parametrize(
    "call",
    [
        ["calibrate", "--model", "hf://me/tiny", "--annotations", "val.csv"],
        ["export", "hf://me/tiny"],
        ["export", "hf://me/tiny", "--int8", "--calibrate", "photos"],
    ],
)
def test_what_would_change_a_cached_model_is_refused(
    call: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call) == 2
    assert "error: hf://me/tiny is a model of the hub, whose" in capsys.readouterr().err


def test_the_cards_own_metadata_go_before() -> None:
    text = "---\nlicense: cc-by-4.0\nthumbnail: x.png\n---\n\n# Mine\n"
    card = card_with_metadata(text, "mine", licence="mit", language="de")
    told = metadata(card)
    assert (told["license"], told["thumbnail"], told["language"]) == ("cc-by-4.0", "x.png", "de")
    assert card.endswith("\n---\n\n# Mine\n")
    assert "model-index" not in told


@pytest.mark.parametrize(
    "card", [b"---\nlicense: [mit\n---\n# Mine\n", b"---\n- mit\n---\n# Mine\n", b"# Fran\xe7ais\n"]
)
def test_a_card_that_cannot_be_read_is_not_sent(
    card: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(BUNDLED, tmp_path / "model")
    (folder / "README.md").write_bytes(card)
    assert main(["push", str(folder), "me/tiny"]) == 2
    said = capsys.readouterr().err
    assert "README.md cannot be uploaded: " in said and "Expected Markdown in UTF-8" in said


TABLES = """
| size | words |
|---|---|
| 3 | 4 |

Scores:

| BLEU-4 | CIDEr-D |
|---|---|
| 20.0 | 65.6 |

| set | BLEU-4 | CIDEr-D |
|---|---|---|
| a | 1.0 | nan |
| mean | 3.0 | 4 |
| version 1.2 | 1.2.3 | . |
"""


def test_scores_are_read_from_tables() -> None:
    assert list(scores_in(TABLES)) == [
        ("validation", {"BLEU-4": 20.0, "CIDEr-D": 65.6}),
        ("a", {"BLEU-4": 1.0}),
        ("mean", {"BLEU-4": 3.0, "CIDEr-D": 4.0}),
    ]
