"""The built wheel, installed where nothing else is: what a user gets from `pip install captioner`.

Needs the package index: the base dependencies are installed into an empty environment.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "astronaut.jpg"
UV = shutil.which("uv")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
ASSETS = {
    "config.json",
    "vocabulary.json",
    "model.safetensors",
    "encoder.onnx",
    "decoder.onnx",
    "README.md",
}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from the repository and its environment, and give back what it prints."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    result = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    if UV:
        run(UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT, cwd=folder)
    else:
        run(*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands' folder of an empty environment into which the wheel was installed."""
    home = tmp_path_factory.mktemp("home")
    commands = home / "venv" / ("Scripts" if os.name == "nt" else "bin")
    if UV:
        run(UV, "venv", "--quiet", "--python", sys.executable, "venv", cwd=home)
        run(UV, "pip", "install", "--quiet", "--python", commands / "python", wheel, cwd=home)
    else:
        run(sys.executable, "-m", "venv", "venv", cwd=home)
        run(commands / "python", *PIP[1:], "install", "--no-compile", wheel, cwd=home)
    return commands


def test_the_wheel_holds_the_model_and_the_types_and_no_strangers(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "captioner/py.typed",
        "captioner/cli.py",
        *(f"captioner/assets/{name}" for name in ASSETS),
    } <= names
    strangers = {name for name in names if not name.startswith(("captioner/", "captioner-"))}
    assert not strangers
    assert {Path(name).name for name in names if name.startswith("captioner/assets/")} == ASSETS


def test_the_wheel_has_the_version_of_the_source(wheel: Path, installed: Path) -> None:
    version = run(
        sys.executable, "-c", "import captioner; print(captioner.__version__)", cwd=ROOT
    ).strip()
    assert wheel.name == f"captioner-{version}-py3-none-any.whl"
    code = (
        "import captioner, importlib.metadata; print(captioner.__version__,"
        " importlib.metadata.version('captioner'))"
    )
    assert run(installed / "python", "-c", code, cwd=installed).split() == [version, version]


def test_the_wheel_carries_the_configs(wheel: Path, installed: Path, tmp_path: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    configs = {path.name: path.read_bytes() for path in (ROOT / "configs").glob("*.yaml")}
    assert {name: archive.read(f"captioner/configs/{name}") for name in configs} == configs
    call = [installed / "captioner", "train", "--config"]
    for config, said in (
        ("tinny", "Did you mean tiny?"),
        ("tiny", "pip install 'captioner[train]'"),
    ):
        done = subprocess.run(
            [*call, config], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_wheel_trains_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """With the libraries of this environment, but the captioner of the wheel."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "package")
    (tmp_path / "work").mkdir()
    small = [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        "--data.draw_shapes=50",
        "--plan.memory=false",
    ]
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from captioner.cli import main;"
        " sys.exit(main())"
    )
    call = [sys.executable, "-c", code, tmp_path / "package", "train", "--config", "tiny", *small]
    run(*call, "--trainer.accelerator=cpu", cwd=tmp_path / "work")
    assert (tmp_path / "work/runs/tiny/best/config.json").is_file()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["data", "runs"]


def test_no_framework_is_installed_with_it(installed: Path) -> None:
    code = (
        "import importlib.metadata as m; print(*(d.metadata['Name'].lower() for d in"
        " m.distributions()))"
    )
    packages = set(run(installed / "python", "-c", code, cwd=installed).split())
    assert {"captioner", "numpy", "pillow", "onnxruntime"} <= packages
    assert not {"torch", "torchvision", "lightning", "onnx", "nltk", "gradio"} & packages


def test_the_installed_command_gives_the_caption_of_the_source(
    installed: Path, tmp_path: Path
) -> None:
    here = run(sys.executable, "-m", "captioner", "caption", "--backend", "onnx", PHOTO, cwd=ROOT)
    there = run(installed / "captioner", "caption", PHOTO, cwd=tmp_path)
    assert len(there.split()) > 2
    assert there == here
