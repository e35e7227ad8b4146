"""`captioner train`: shipped configs by name; tests/training tests the training itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.cli import main, parse
from captioner.commands.train import find_config, shipped_configs, with_paths
from captioner.errors import ConfigError

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "configs" / "tiny.yaml")
COMMANDS = [["-m", "captioner", "train"], [str(ROOT / "scripts/train.py")]]


def call(
    command: list[str], *args: str, path: Path, cwd: Path
) -> "subprocess.CompletedProcess[str]":
    """Run the command where modules are looked for in `path` first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    environment.pop("THP_MEM_ALLOC_ENABLE", None)
    run = [sys.executable, *command, *args]
    return subprocess.run(
        run, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_all_configs_of_the_repository_are_shipped() -> None:
    assert shipped_configs() == {path.stem: path for path in (ROOT / "configs").iterdir()}


def test_a_config_is_found_by_its_name_or_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("tiny", "coco"):  # of data perhaps; a name is a name
        Path(folder).mkdir()
    assert find_config("tiny") == TINY
    Path("own.yaml").touch()
    for config in ("own.yaml", "./own.yaml", str(tmp_path / "own.yaml"), TINY):
        assert find_config(config) == config
    for config in ("https://example.com/own.yaml", "{model: null}", "model:\n  dropout: 0"):
        assert find_config(config) == config, "LightningCLI's business"


@pytest.mark.parametrize("config", ["tinny", "tinny.yaml", "configs/tinny.yaml", "", "."])
def test_an_unknown_config_lists_the_existing_ones(config: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"Expected a YAML file, or one of cifar10, .*, tiny_events, tiny_video, video\.$",
    ) as caught:
        find_config(config)
    assert ("Did you mean tiny?" in str(caught.value)) == ("tinny" in config)


@pytest.mark.parametrize("args", [["--config", "tinny"], ["--config=tinny"], ["-c", "tinny"]])
def test_an_unknown_config_is_one_line(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *args]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: Unknown config tinny. Did you mean tiny? Expected ")


@pytest.mark.parametrize(
    ("args", "wrong"), [([], "No config was given."), (["tiny"], "Unexpected argument tiny.")]
)
def test_a_call_without_a_config_is_one_line(
    args: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {wrong} Expected --config with a YAML file, or one of cifar10,")


@pytest.mark.parametrize("command", COMMANDS)
def test_without_its_packages_it_says_what_to_install(command: list[str], tmp_path: Path) -> None:
    # Stands in for a torch that isn't there, and tells how huge pages are set when torch would read
    # it.
    (tmp_path / "torch.py").write_text(
        "import os\nprint(os.environ['THP_MEM_ALLOC_ENABLE'])\nraise ModuleNotFoundError('torch',"
        " name='torch')\n"
    )
    done = call(command, "--config", "tiny", path=tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "1\n")
    message = (
        "Training needs packages that are not installed. Install them: pip install"
        " 'captioner[train]'"
    )
    assert done.stderr == f"error: {message}\n"


def test_all_other_arguments_are_lightnings() -> None:
    rest = ["--trainer.max_epochs=3", "--ckpt_path", "last", "--help", "-x", "tiny", "--data.train"]
    taken = list(with_paths(["--config", "tiny", "-c", "coco", *rest, "--config=tiny"]))
    assert taken == [
        "--config",
        TINY,
        "-c",
        TINY.replace("tiny", "coco"),
        *rest,
        f"--config={TINY}",
    ]
    assert parse(["train", *rest]).operands == rest


def test_a_key_is_not_abbreviated_and_an_unknown_one_is_told_shortly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--config", "tiny", "--trainer.max_epoch", "3"])
    usage, _, error = capsys.readouterr().err.splitlines()
    assert usage == "usage: captioner train --config CONFIG [--KEY VALUE ...]"
    assert error == "error: unrecognized arguments: --trainer.max_epoch 3"


def test_its_help_is_lightnings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text, complaints = capsys.readouterr()
    assert text.startswith("usage: captioner train ")
    assert not complaints
    assert all(
        option in text for option in ("--config", "--ckpt_path", "--model.decoding.beam_size")
    )
    assert "Words that a caption may not end with" in text, (
        "the table of decoding options is its help too"
    )
