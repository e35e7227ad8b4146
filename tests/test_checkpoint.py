import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from captioner.checkpoint import (
    FORMAT_VERSION,
    describe,
    drop_confidence,
    read_checkpoint,
    write_checkpoint,
)
from captioner.decoding import DecodingOptions
from captioner.errors import CheckpointError, ConfigError
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary

VOCABULARY = Vocabulary([*SPECIAL_WORDS, "ein", "Hund", "läuft"])
ARCHITECTURE: dict[str, Any] = {"encoder": {"name": "resnet50"}, "decoder": {"name": "show_tell"}}


def write_weights(folder: Path, rows: int = len(VOCABULARY)) -> None:
    tensors = {
        "decoder.embedding.weight": np.zeros((rows, 4), np.float16),
        "encoder.bias": np.ones(3, np.float32),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write(folder: Path, fill: Callable[[Path], object] = write_weights, **changes: Any) -> Path:
    given = {
        "architecture": ARCHITECTURE,
        "preprocessing": Preprocessing(size=64, resize="center_crop"),
        "decoding": DecodingOptions(beam_size=2, forbidden_endings=("ein",)),
        "vocabulary": VOCABULARY,
        "card": "---\nlicense: mit\n---\n# Hunde\n\nTrained on dogs.\n",
        **changes,
    }
    write_checkpoint(folder, fill=fill, **given)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path / "new" / "model"))
    assert checkpoint.folder == tmp_path / "new" / "model"
    assert checkpoint.architecture == ARCHITECTURE
    assert checkpoint.preprocessing == Preprocessing(size=64, resize="center_crop")
    assert checkpoint.decoding == DecodingOptions(beam_size=2, forbidden_endings=("ein",))
    assert checkpoint.vocabulary == VOCABULARY
    assert checkpoint.weights.is_file()
    assert not checkpoint.has_onnx


def test_derived_facts_are_no_keys(tmp_path: Path) -> None:
    config = json.loads((write(tmp_path / "model") / "config.json").read_text(encoding="utf-8"))
    assert set(config) == {
        "format_version",
        "package_version",
        "architecture",
        "preprocessing",
        "decoding",
    }


def test_what_a_caption_must_contain_is_no_default_of_a_model(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"include is \('Hund',\); expected none in a model's defaults"
    ):
        write(tmp_path / "model", decoding=DecodingOptions(include=("Hund",)))
    assert not any(tmp_path.iterdir())
    path = write(tmp_path / "model") / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert "include" not in config["decoding"]
    config["decoding"]["include"] = ["Hund"]
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"include is .* expected none in a model's defaults"):
        read_checkpoint(path.parent)


def test_describe_is_plain_data_about_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    description = json.loads(json.dumps(describe(read_checkpoint(folder))))
    assert description["words"] == 3
    assert description["files"] == {name: len(data) for name, data in contents(folder).items()}
    assert description["card"] == ["# Hunde", "", "Trained on dogs."]
    assert description["architecture"] == ARCHITECTURE
    assert description["decoding"]["forbidden_endings"] == ["ein"]


def test_a_new_checkpoint_replaces_the_old_one_and_keeps_what_is_not_its_own(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "model")
    (folder / "encoder.onnx").write_bytes(b"of the old weights")
    (folder / "notes.txt").write_text("mine")
    (folder / "runs").mkdir()
    write(folder, architecture={"encoder": {}, "decoder": {}})
    assert read_checkpoint(folder).architecture == {"encoder": {}, "decoder": {}}
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "runs").is_dir()
    assert not (folder / "encoder.onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    folder = write(tmp_path / "model")
    before = contents(folder)

    def fail(temporary: Path) -> None:
        write_weights(temporary)
        assert temporary.parent == folder.parent, "a rename works within one file system only"
        assert contents(folder) == before
        raise error("no")

    with pytest.raises(CheckpointError if error is OSError else error):
        write(folder, fill=fail)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_something_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"irreplaceable")
    with pytest.raises(CheckpointError, match="is not a checkpoint; choose another"):
        write(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is not a checkpoint; choose another"):
        write(tmp_path / "file")
    assert set(contents(tmp_path)) == {"photo.jpg", "file"}


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read_checkpoint(tmp_path / "empty").vocabulary == VOCABULARY


def test_others_may_read_a_checkpoint_whatever_wrote_its_files(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        write_weights(folder)
        (folder / "model.safetensors").chmod(0o600)

    modes = {
        stat.S_IMODE(path.stat().st_mode) for path in write(tmp_path / "model", fill).iterdir()
    }
    (tmp_path / "ordinary").touch()
    assert modes == {stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)}


def change_config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | changes
        path.write_text(
            json.dumps({key: value for key, value in config.items() if value is not None})
        )

    return damage


def replace(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def truncate(name: str, share: float) -> Callable[[Path], object]:
    return lambda folder: replace(
        name, (data := (folder / name).read_bytes())[: int(share * len(data))]
    )(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "does not exist; expected a folder with config.json"),
        (lambda folder: (shutil.rmtree(folder), folder.touch()), "is not a folder"),
        (
            lambda folder: (folder / "config.json").unlink(),
            "is not a checkpoint: it has no config.json",
        ),
        (
            lambda folder: (folder / "vocabulary.json").unlink(),
            "is incomplete: vocabulary.json missing",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "is incomplete: model.safetensors missing",
        ),
        (truncate("config.json", 0.5), "config.json is damaged: invalid JSON"),
        (replace("config.json", b"\xff\xfe"), "config.json is damaged: invalid JSON"),
        (replace("config.json", b"[" * 100_000), "config.json is damaged: invalid JSON"),
        (replace("config.json", b"[1]"), "is not from a captioner checkpoint"),
        (replace("config.json", b'{"model_type": "blip"}'), "is not from a captioner checkpoint"),
        (change_config(format_version="1"), "is not from a captioner checkpoint"),
        (
            change_config(format_version=FORMAT_VERSION + 1, new={}),
            "pip install --upgrade captioner",
        ),
        (change_config(extra=1), "has unknown keys: extra; expected format_version"),
        (change_config(decoding=None), "lacks decoding"),
        (change_config(decoding=[1]), r"decoding is \[1\]; expected a JSON object"),
        (change_config(decoding={"beam_sise": 3}), "config.json: .*beam_sise"),
        (change_config(preprocessing={"size": "large"}), "config.json: .*size"),
        (change_config(preprocessing={"std": [1, 1, 10**400]}), "config.json: .*three numbers"),
        (change_config(package_version=1), "package_version is 1"),
        (replace("vocabulary.json", b'["a"]'), "vocabulary.json: not a vocabulary"),
        (
            lambda folder: write_weights(folder, 100),
            "a model of 100 words, and vocabulary.json has 7",
        ),
        (
            truncate("model.safetensors", 0.9),
            r"safetensors: size mismatch: expected \d+ bytes, got \d+",
        ),
        (truncate("model.safetensors", 0.1), "is damaged or not a safetensors file"),
        (replace("model.safetensors", b""), "is damaged or not a safetensors file"),
        (replace("model.safetensors", b"PK\x03\x04" * 100), "is damaged or not a safetensors file"),
        (
            replace("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
            "git lfs pull",
        ),
    ],
)
def test_every_damage_is_one_clear_error(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = write(tmp_path / "model")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(folder)
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_architecture_of_another_form_keeps_its_other_sections_writable(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    change_config(architecture={"decoder": "mine"})(folder)
    drop_confidence(folder)
    assert read_checkpoint(folder).architecture == {"decoder": "mine"}
