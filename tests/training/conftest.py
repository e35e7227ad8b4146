import logging
import shutil

import pytest

from captioner.training.train import main
from tests.training.runs import SHIPPED_ENCODER, SMALL, TINY


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
    options = [f"--config={TINY}", *SMALL, *SHIPPED_ENCODER, *data, f"--trainer.default_root_dir={run}"]
    assert main([*options, "--trainer.max_epochs=6"]) == 0
    return run, data
