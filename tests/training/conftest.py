import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.annotations.records import Record
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.training.train import main
from tests.training.runs import SHIPPED_ENCODER, SMALL, TINY
from tests.training.views import COUNT


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    """Configs name their data and runs relative to where training is started."""
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger("captioner").handlers)
    yield
    logging.getLogger("captioner").handlers = handlers


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """What a small run of one epoch leaves, with its data."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([f"--config={TINY}", *SMALL, "--trainer.max_epochs=1"]) == 0
    return folder


@pytest.fixture
def finished_run(finished, _in_an_empty_folder):
    """A copy of it, in the folder where the test runs."""
    shutil.copytree(finished, ".", dirs_exist_ok=True)


@pytest.fixture(scope="session")
def first_stage(tmp_path_factory):
    """A model that has learnt a little by cross-entropy."""
    run = tmp_path_factory.mktemp("first") / "run"
    shapes = run.parent / "shapes"
    data = [
        f"--data.train={shapes}/annotations/captions_train.json",
        f"--data.val={shapes}/annotations/captions_val.json",
        f"--data.train_images={shapes}/images",
        "--data.draw_shapes=120",
        "--data.batch_size=16",
    ]
    options = [
        f"--config={TINY}",
        *SMALL,
        *SHIPPED_ENCODER,
        *data,
        f"--trainer.default_root_dir={run}",
    ]
    assert main([*options, "--trainer.max_epochs=6", "--trainer.check_val_every_n_epoch=6"]) == 0
    return run, data


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig("plain_cnn"), 32)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(COUNT):
        Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(
            folder / f"{index}.bmp"
        )
    return [Record(i, folder / f"{i}.bmp", ("A dog.", "A cat.")) for i in range(COUNT)]


@pytest.fixture
def calls(encoder: Encoder) -> list[int]:
    """Gets the number of images of each call of the encoder."""
    sizes: list[int] = []
    encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes
