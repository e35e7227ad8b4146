"""Sample captions with their images, for the loggers."""

import textwrap
from collections.abc import Sequence

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image, ImageDraw

from captioner.annotations.records import Record
from captioner.images import open_image
from captioner.video.parts import read_frames

WIDTH = 320  # pixels
LINE = 12  # pixels


def log_samples(
    logger: object,
    samples: Sequence[tuple[Record, str]],
    step: int,
    name: str = "",
    *,
    frames: int = 0,
) -> None:
    """Log images with the model's captions.

    Args:
        logger: TensorBoard or Weights & Biases; other loggers are ignored.
        samples: Records with the captions that the model gave them.
        step: The training step.
        name: The name of their validation set; empty if there is only one.
        frames: The number of frames of a clip to show side by side; 0 for images.
    """
    folder = f"samples/{name}" if name else "samples"
    for record, caption in samples:
        name = f"{folder}/{record.image_id}"
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(
                name, np.asarray(draw_sample(record, caption, frames)), step, dataformats="HWC"
            )
        elif isinstance(logger, WandbLogger):
            logger.log_image(
                name, [_shrunk(record, frames)], step, caption=[f"{caption} ({record.captions[0]})"]
            )


def draw_sample(record: Record, caption: str, frames: int = 0) -> Image.Image:
    """Draw an image, or a clip's frames, above the model's caption and the first reference."""
    image = _shrunk(record, frames)
    lines = [*_wrap(caption), *_wrap(f"({record.captions[0]})")]
    panel = Image.new("RGB", (WIDTH, image.height + LINE * len(lines) + 8), "white")
    panel.paste(image)
    ImageDraw.Draw(panel).text((4, image.height + 2), "\n".join(lines), fill="black")
    return panel


def _shrunk(record: Record, frames: int) -> Image.Image:
    if frames:
        image = _side_by_side(read_frames(record.clip, frames))
    else:
        image = open_image(record.path, min_size=WIDTH)
    return image.resize((WIDTH, max(1, round(image.height * WIDTH / image.width))))


def _side_by_side(frames: Sequence[Image.Image]) -> Image.Image:
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height))
    for index, frame in enumerate(frames):
        strip.paste(frame, (index * width, 0))
    return strip


def _wrap(text: str, width: int = 52) -> list[str]:
    return textwrap.wrap(text, width) or [""]
