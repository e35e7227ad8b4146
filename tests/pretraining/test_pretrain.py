"""`captioner pretrain`, from images to an encoder that a captioner takes."""

import logging
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors import safe_open
from safetensors.torch import load_file

from captioner.cli import main as captioner
from captioner.model.own_weights import read_facts
from captioner.pretraining.train import main
from tests.pretraining.known import write_cifar10, write_mnist
from tests.pretraining.shapes import CLASSES, SIZE, SMALL, draw_folder, pretrain_with

ROOT = Path(__file__).parents[2]
EMA = "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"


def last_weights(run: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_it_learns_to_tell_shapes_apart_and_says_what_it_knows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    draw_folder(Path("train"), each=60)
    draw_folder(Path("test"), each=10, seed=1)
    options = ["--data.train=train", "--data.test=test", "--trainer.max_epochs=10"]
    assert main([*SMALL, *options]) == 0, caplog.text
    facts = read_facts("run/encoder.safetensors")
    assert facts is not None
    assert (facts.network, facts.classes) == ("plain_cnn", CLASSES)
    assert facts.preprocessing.size == SIZE
    assert facts.scores["test/accuracy"] > 0.9
    assert "162 images to train on, 18 to validate on, 30 to test on, 3 classes" in caplog.text
    with safe_open("run/encoder.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt", "transformers and others read it"


class Break(Callback):
    """Ctrl-C during a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("method", ["supervised", "rotation", "simsiam"])
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(method: str) -> None:
    draw_folder(Path("train"), each=20)
    varied = ["--data.warp={rotate: 20, shift: 0.1}", "--data.augmentation.crop=0.6"]
    mixed = ["--model.mixup=0.4", "--model.label_smoothing=0.1", f"--model.method={method}", EMA]
    options = [*SMALL, "--data.train=train", "--trainer.max_epochs=2", *varied, *mixed]
    assert main([*options, "--trainer.default_root_dir=whole"]) == 0
    with pytest.raises(SystemExit, match="130"):
        pretrain_with(Break(4), options)
    assert main([*options, "--ckpt_path=last"]) == 0
    whole, resumed = last_weights("whole"), last_weights("run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (
        load_file("whole/encoder.safetensors").keys() == load_file("run/encoder.safetensors").keys()
    )


def test_without_labels_the_classifier_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    draw_folder(Path("train"), each=8)
    options = ["--data.train=train", "--model.method=rotation", "--trainer.max_epochs=1"]
    assert main([*SMALL, *options]) == 0, caplog.text
    facts = read_facts("run/encoder.safetensors")
    assert facts is not None
    assert facts.classes == ()
    names = load_file("run/encoder.safetensors").keys()
    assert {name.rpartition(".")[0] for name in names} == {
        "features.0",
        "features.3",
        "classifier.1",
    }


def test_what_was_learned_is_where_the_next_run_begins() -> None:
    draw_folder(Path("train"), each=4)
    options = [*SMALL, "--data.train=train", "--trainer.max_epochs=1"]
    assert main([*options, "--trainer.default_root_dir=first", "--model.method=rotation"]) == 0
    begun = "--model.weights=first/encoder.safetensors"
    assert main([*options, begun, "--model.learning_rate=1e-12"]) == 0
    first, second = (load_file(f"{run}/encoder.safetensors") for run in ("first", "run"))
    for name in first:
        torch.testing.assert_close(second[name], first[name])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Expected either data.train"),
        (["--data.train=nowhere"], "nowhere: cannot be read"),
        (["--data.dataset=mnist"], "has no complete MNIST"),
        (["--data.train=train", "--model.encoder=resnet9000"], "no classification CNN"),
        (["--data.train=train", "--model.encoder=timm/resnet10t"], "has no region grid"),
        (["--data.train=train", "--model.mixup=-1"], "mixup -1"),
        (["--data.train=train", "--data.warp.shift=2"], "expected shares"),
        (["--data.train=train", "--data.held_out=0"], "data.held_out is 0"),
        (["--data.train=train", "--data.val=other"], "'triangle' is not in the training images"),
        (["--data.train=train", "--model.weights=gone.pth"], "gone.pth: no such file"),
        (["--data.train=train", "--checkpoint.monitor=val/CIDEr-D"], "expected one of val/accu"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    draw_folder(Path("train"), each=2)
    draw_folder(Path("other"), each=1)
    Path("other/square").rename("other/triangle")
    caplog.set_level(logging.ERROR)
    assert main([*SMALL, *options]) == 2
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert re.search(said, record.getMessage())
    assert not Path("run/encoder.safetensors").exists()


def test_a_damaged_image_stops_the_run_or_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    draw_folder(Path("train"), each=4)
    Path("train/cross/1.png").write_bytes(b"no image")
    options = [*SMALL, "--data.train=train", "--trainer.max_epochs=1"]
    assert main([*options, "--trainer.default_root_dir=stopped"]) == 2
    assert "1.png" in caplog.text
    assert main([*options, "--data.unreadable=skip"]) == 0
    assert "Skipped: " in caplog.text


def test_a_resumed_run_keeps_its_classes(caplog: pytest.LogCaptureFixture) -> None:
    draw_folder(Path("train"), each=4)
    options = [*SMALL, "--data.train=train"]
    assert main([*options, "--trainer.max_epochs=1"]) == 0
    Path("train/cross").rename("train/kreuz")
    assert main([*options, "--trainer.max_epochs=2", "--ckpt_path=last"]) == 2
    assert "classes is circle, cross, square, but this run's is circle, kreuz" in caplog.text


PAGE = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
COMMANDS = [
    command
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for command in block.splitlines()
]
CLASSES_OF = {"mnist.yaml": 10, "cifar10.yaml": 10, "pretrain.yaml": 3}
TINY_RUN = [
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.logger=false",
    "--data.workers=0",
    "--data.batch_size=8",
]


def test_all_configs_are_shown() -> None:
    assert {f"{command.split()[3]}.yaml" for command in COMMANDS} == CLASSES_OF.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page(
    command: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # as the command does, but put back
    program, *arguments = command.split()
    assert program == "captioner"
    if "photos/" in arguments:
        draw_folder(Path("photos"), each=3)
        arguments += ["--data.preprocessing.size=64"]
    else:
        write_mnist(Path("data"), train=30, test=6)
        write_cifar10(Path("data"), each=6, monkeypatch=monkeypatch)
        arguments += ["--data.download=false"]  # the files are there
    assert captioner([*arguments, *TINY_RUN]) == 0, caplog.text
    (path,) = Path("runs").glob("*/encoder.safetensors")
    facts = read_facts(path)
    assert facts is not None
    expected = 0 if {"rotation", "simsiam"} & set(arguments) else CLASSES_OF[f"{arguments[2]}.yaml"]
    assert len(facts.classes) == expected
