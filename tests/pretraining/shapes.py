"""Drawn images of three classes, and small runs on them."""

from pathlib import Path

import numpy as np
from lightning.pytorch import Callback
from PIL import Image, ImageDraw

from captioner.pretraining import train as pretraining
from captioner.pretraining.train import main
from tests.training.runs import one_more

CLASSES = ("circle", "cross", "square")
SIZE = 16  # pixels a side

SMALL = [
    "--model.encoder=plain_cnn",
    "--model.warmup_steps=5",
    "--model.learning_rate=3e-3",
    f"--data.preprocessing.size={SIZE}",
    "--data.batch_size=16",
    "--data.workers=0",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.logger=false",
    "--trainer.default_root_dir=run",
]


def draw(kind: str, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """A white shape on black, somewhere."""
    image = Image.new("RGB", (size, size))
    pen = ImageDraw.Draw(image)
    radius = int(rng.integers(size // 5, size // 3))
    x, y = rng.integers(radius, size - radius, 2)
    box = (x - radius, y - radius, x + radius, y + radius)
    if kind == "circle":
        pen.ellipse(box, fill="white")
    elif kind == "square":
        pen.rectangle(box, fill="white")
    else:
        pen.line((x - radius, y, x + radius, y), fill="white", width=2)
        pen.line((x, y - radius, x, y + radius), fill="white", width=2)
    return image


def draw_folder(folder: Path, each: int, seed: int = 0) -> Path:
    """A folder of a folder of images for each class."""
    rng = np.random.default_rng(seed)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for number in range(each):
            draw(kind, rng).save(folder / kind / f"{number}.png")
    return folder


def pretrain_with(callback: Callback, arguments: list[str]) -> int:
    """Pretrain with one more callback, which looks on or disturbs."""
    with one_more(callback, pretraining, "PretrainCLI"):
        return main(arguments)
