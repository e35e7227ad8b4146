"""How tests run a shipped config: made small enough, everything else as shipped."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from captioner.training import train as training
from captioner.training.train import main

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny.yaml"
FLICKR8K = ROOT / "configs" / "flickr8k.yaml"

QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--checkpoint.onnx=false",  # this and the memory take seconds a run
    "--plan.memory=false",
]
SMALL = [
    "--data.draw_shapes=50",
    "--data.batch_size=8",
    "--trainer.max_epochs=2",
    "--data.preprocessing.size=64",
    "--model.encoder.name=timm/test_efficientnet",  # tiny, with BatchNorm; random weights
    "--model.weights=null",
    *QUICK,
]
SHIPPED_ENCODER = [
    "--model.encoder.name=timm/tf_efficientnet_lite3",
    "--model.weights=bundled",
]  # behind SMALL
SMALL_EFFICIENTNET = ["--model.encoder.name=timm/tf_efficientnet_lite0"]  # stages by the same names
SMALL_RESNET = "timm/test_resnet"  # has stages of the names of all ResNets

# On tables of drawn photos, in train/ and val/.
ON_TABLES = [
    f"--config={TINY}",
    *QUICK,
    "--trainer.logger=false",
    "--trainer.max_epochs=1",
    "--data.draw_shapes=0",
    "--data.train=train/photos.csv",
    "--data.val=val/photos.csv",
    "--data.train_images=null",
    "--data.batch_size=4",
    "--data.preprocessing.size=64",
    "--data.cache_features=0",
    "--model.encoder.name=timm/test_resnet",  # the one that is built fastest
    "--model.weights=null",
    "--model.decoding={beam_size: 1, max_length: 8}",
]


def last_checkpoint(run: str) -> dict[str, Any]:
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)


def weights(run: str) -> dict[str, torch.Tensor]:
    return last_checkpoint(run)["state_dict"]


def train_with(callback: Callback, arguments: list[str]) -> int:
    """Train with one more callback, which looks on or disturbs."""
    with one_more(callback, training, "TrainCLI"):
        return main(arguments)


@contextmanager
def one_more(callback: Callback, module: Any, name: str) -> Iterator[None]:
    """Let the trainer that a module's CLI makes have one more callback, the first."""
    original = getattr(module, name)

    class WithCallback(original):
        def instantiate_trainer(self, **options: Any) -> Trainer:
            trainer: Trainer = super().instantiate_trainer(**options)
            trainer.callbacks.insert(0, callback)
            return trainer

    setattr(module, name, WithCallback)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond `room` bytes: what is written beyond fails as on a full disk."""
    import resource  # Windows has none

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writes_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # it would be cut off, too
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = writes_bytecode
        signal.signal(signal.SIGXFSZ, handler)
