"""Every command and example of the README does what it says."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from captioner import Captioner
from captioner.checkpoint import BUNDLED
from captioner.cli import main
from tests.coco import draw_coco

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PHOTO = ROOT / "examples" / "pagoda.jpg"

# What makes a training command small enough for a test.
SMALL = (
    "--trainer.accelerator cpu --trainer.max_epochs 1 --trainer.limit_train_batches 2"
    " --data.cache_features 0"
)
SMALL += (
    " --data.preprocessing.size 64 --model.weights null --trainer.enable_progress_bar false"
    " --data.workers 0"
)
SMALL += " --checkpoint.onnx false --plan.memory false"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that the README speaks of."""
    for place in (
        "photo.jpg",
        "holiday/1.jpg",
        "holiday/more/2.jpg",
        "val/1.jpg",
        *(f"garden/00{n}.jpg" for n in (1, 2, 3)),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTO, tmp_path / place)
    references = [
        {"id": i, "image_id": 1, "caption": text}
        for i, text in enumerate(("A man smiles .", "an astronaut"))
    ]
    annotations = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": references}
    (tmp_path / "captions_val.json").write_text(json.dumps(annotations))
    for name in ("ours.json", "theirs.json"):
        (tmp_path / name).write_text(json.dumps([{"image_id": 1, "caption": "a man smiles"}]))
    (rows,) = blocks("csv")
    (tmp_path / "photos.csv").write_text(rows)
    draw_coco(tmp_path / "data" / "coco", train=4, val=2, test=1, restval=1)
    shutil.copy(tmp_path / "data" / "coco" / "dataset_coco.json", tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = re.sub(r"^captioner ", f"{sys.executable} -m captioner ", command)
    command = re.sub(r"^python ", f"{sys.executable} ", command)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


TRAINING, DOWNLOADING = "captioner train ", "captioner prepare-coco"


@pytest.mark.parametrize(
    "command",
    [
        line
        for line in commands()
        if line.startswith("captioner") and not line.startswith((TRAINING, DOWNLOADING))
    ],
)
def test_command(command, folder):
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout or (folder / "captions.tsv").stat().st_size or "--output figure" in command


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith(TRAINING)])
def test_training_command(command, folder, monkeypatch, caplog):
    """In this process: importing torch and Lightning takes longer than all else."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # as the command does, but put back
    if "_scst" in command:  # what the first stage would leave
        shutil.copytree(BUNDLED, folder / "runs" / "coco" / "best")
    small = SMALL + (" --data.draw_shapes 50" if "tiny" in command else " --data.min_count 1")
    if "init_from" not in config_of(command) + command:  # a new network
        small += " --model.encoder.name resnet18"  # tests/training/test_coco.py has the larger one
    assert main(shlex.split(f"{command} {small}")[1:]) == 0, caplog.text
    assert (
        folder
        / re.search("default_root_dir: (.*?)( |$)", config_of(command), re.MULTILINE)[1]
        / "best"
    ).is_dir()


def config_of(command):
    return (ROOT / "configs" / f"{re.search('--config ([a-z0-9_]+)', command)[1]}.yaml").read_text()


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith(DOWNLOADING)])
def test_download_command(command, folder):
    shutil.rmtree(folder / "data")
    done = run(
        f"{command} --only annotations --mirror {(folder / 'empty').as_uri()}", folder
    )  # all need 27 GB of disk
    assert done.returncode == 1
    assert "empty/" in done.stderr, "it asked for COCO's files where there are none"


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("make")])
def test_make_target(command):
    assert run(f"{command} --dry-run", ROOT).returncode == 0


def test_no_command_is_left_out():
    tested = ("captioner ", "make ", "pip install ")  # test_package.py installs
    assert all(command.startswith(tested) for command in commands()), commands()


def execute(example):
    exec(compile(example, "README.md", "exec"), {})


def test_the_python_example(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    execute(blocks("python")[0])
    assert ", 8, 8)" in capsys.readouterr().out


def test_the_maps_example(folder, monkeypatch):
    monkeypatch.chdir(folder)
    execute(blocks("python")[1])
    (caption,) = Captioner.from_pretrained().caption(PHOTO)
    sizes = {Image.open(folder / f"{number}.png").size for number in range(len(caption.words))}
    assert sizes == {(256, 256)}


@pytest.mark.slow
def test_the_client_example(capsys, monkeypatch):
    pytest.importorskip("gradio")
    from captioner.demo.server import serving

    monkeypatch.chdir(ROOT)
    (example,) = blocks("python")[2:]
    with serving(Captioner.from_pretrained()) as address:
        execute(example.replace("http://127.0.0.1:7860", address))
    (caption,) = Captioner.from_pretrained().caption(PHOTO, beam_size=3)
    assert capsys.readouterr().out.strip().splitlines()[-1] == caption.text


def test_the_first_example_shows_what_the_model_says(folder):
    (console,) = blocks("console")
    said = console.strip().splitlines()[-1]
    assert run("captioner caption photo.jpg", folder).stdout.strip() == said


def test_the_table_of_own_photos_is_read(folder):
    with open(folder / "photos.csv", newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == {
            f"garden/00{n}.jpg" for n in (1, 2, 3)
        }
