"""The commands and examples of README.md and of the how-to pages work as described."""

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
from captioner.cli import main
from tests.coco import draw_coco
from tests.training.runs import SMALL_RESNET

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/tutorial.md",
    *(
        f"docs/how-to/{name}.md"
        for name in ("caption", "train", "coco", "score", "explain", "deploy")
    ),
)
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


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[str]:
    """The commands of all pages, each once."""
    text = "".join(block for page in PAGES for block in blocks(page, "sh"))
    lines = text.replace("\\\n", " ").splitlines()
    stripped = [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]
    return list(dict.fromkeys(stripped))


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that the pages mention."""
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
    (tmp_path / "val.csv").write_text("path,caption\nval/1.jpg,a man smiles\n")
    (rows,) = blocks("docs/tutorial.md", "csv")
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
        if line.startswith("captioner")
        and not line.startswith((TRAINING, DOWNLOADING, "captioner demo"))
    ],
)
def test_command(command, folder, monkeypatch, capsys):
    """In this process where no shell is needed: there are many, and libraries take time to load."""
    if re.search("[<>|]", command):
        done = run(command, folder)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        monkeypatch.chdir(folder)
        status = main(shlex.split(command)[1:])
        printed, said = capsys.readouterr()
        assert status == 0, said
    written = [path.stat().st_size for path in folder.glob("captions.*sv")]
    assert printed or any(written) or "--output figure" in command


@pytest.mark.parametrize(
    "command",
    [
        # The bundled model is large, and tests/training/test_own_photos.py trains it in any run.
        pytest.param(line, marks=pytest.mark.slow if "finetune" in line else [])
        for line in commands()
        if line.startswith(TRAINING)
    ],
)
def test_training_command(command, folder, checkpoint_folder, monkeypatch, caplog):
    """In this process: importing torch and Lightning takes longer than all else."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # as the command does, but put back
    if "_scst" in command:  # what the first stage would leave
        shutil.copytree(checkpoint_folder, folder / "runs" / "coco" / "best")
    small = SMALL + (" --data.draw_shapes 50" if "tiny" in command else " --data.min_count 1")
    if "init_from" not in config_of(command) + command:  # a new network
        # tests/training/test_coco.py has the larger one
        small += f" --model.encoder.name {SMALL_RESNET} --model.decoder.hidden_size 64"
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
    tested = ("captioner ", "make ", "pip install ")  # tests/test_package.py, tests/demo
    assert all(command.startswith(tested) for command in commands()), commands()


def execute(example):
    exec(compile(example, "example", "exec"), {})


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/caption.md"])
def test_the_python_example(page, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (example,) = blocks(page, "python")
    execute(example)
    assert "'cat'" in capsys.readouterr().out, "its tags"


def test_the_maps_example(folder, monkeypatch):
    monkeypatch.chdir(folder)
    example, _ = blocks("docs/how-to/explain.md", "python")
    execute(example)
    (caption,) = Captioner.from_pretrained().caption(ROOT / "examples" / "photographer.jpg")
    sizes = {Image.open(folder / f"{number}.png").size for number in range(len(caption.words))}
    assert sizes == {(256, 256)}


def test_the_evidence_example(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    _, example = blocks("docs/how-to/explain.md", "python")
    execute(example)
    lines = capsys.readouterr().out.splitlines()
    said = "a cup of coffee on a red saucer on a wooden table"
    assert lines[0].replace("[", "").replace("]", "") == said
    words = said.split()
    assert [line.split()[1] for line in lines[1 : len(words) + 1]] == words


@pytest.mark.slow
def test_the_client_example(capsys, monkeypatch):
    pytest.importorskip("gradio")
    from captioner.demo.server import serving

    monkeypatch.chdir(ROOT)
    (example,) = blocks("docs/how-to/deploy.md", "python")
    with serving(Captioner.from_pretrained()) as address:
        execute(example.replace("http://127.0.0.1:7860", address))
    photo = ROOT / "examples" / "photographer.jpg"
    (caption,) = Captioner.from_pretrained().caption(photo, beam_size=3)
    assert capsys.readouterr().out.strip().splitlines()[-1] == caption.text


def test_the_first_example_shows_what_the_model_says(folder):
    (console,) = blocks("README.md", "console")
    said = console.strip().splitlines()[-1]
    assert run("captioner caption photo.jpg", folder).stdout.strip() == said


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_table_of_own_photos_is_read(folder):
    with open(folder / "photos.csv", newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == {
            f"garden/00{n}.jpg" for n in (1, 2, 3)
        }


def test_the_notebook_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    notebook = json.loads((ROOT / "docs/notebooks/captioner.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    execute("\n".join(cells))
    assert "CIDEr-D" in capsys.readouterr().out


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    done = run(f"python -m mkdocs build --strict -f {ROOT / 'mkdocs.yml'} -d {tmp_path}", tmp_path)
    assert done.returncode == 0, done.stderr
    for page in ("index", "tutorial/index", "how-to/caption/index", "reference/api/index"):
        assert (tmp_path / f"{page}.html").is_file()
