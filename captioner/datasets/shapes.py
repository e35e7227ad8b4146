"""A small drawn data set in COCO's layout: coloured shapes and sentences about them.

It needs no download, and a model learns it in a minute or two, so it is the first example of
training, and the data of tests.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (214, 40, 40),
    "green": (60, 160, 70),
    "blue": (40, 90, 200),
    "yellow": (240, 200, 40),
}
SHAPES = ("circle", "square", "triangle")
PLACES = ("above", "below", "left of", "right of")
SIZE = 64  # pixels a side
VAL_SHARE = 0.2


def draw_shapes(folder: Path, count: int, seed: int = 0) -> None:
    """Draw the data set into a folder, unless it exists.

    The folder gets `images/`, `annotations/captions_train.json` and
    `annotations/captions_val.json`: a fifth of the images is held out for validation. Each image
    shows two different shapes, and has three captions.

    Args:
        folder: The folder; written atomically.
        count: Number of images.
        seed: Seed of the drawings.
    """
    if folder.exists():
        return
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        (temporary / "images").mkdir(parents=True)
        (temporary / "annotations").mkdir()
        drawn = list(_draw(temporary / "images", count, np.random.default_rng(seed)))
        held_out = round(count * VAL_SHARE)
        for split, chosen in (("val", drawn[:held_out]), ("train", drawn[held_out:])):
            _write(temporary / "annotations" / f"captions_{split}.json", chosen)
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # else another process of the run has drawn it first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _draw(folder: Path, count: int, rng: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Draw images; yield their file names and captions."""
    for index in range(count):
        place = PLACES[rng.integers(len(PLACES))]
        names = [
            f"{color} {shape}"
            for color, shape in zip(
                rng.choice(list(COLORS), 2, replace=False),
                rng.choice(SHAPES, 2, replace=False),
                strict=True,
            )
        ]
        image = Image.new(
            "RGB", (SIZE, SIZE), tuple(int(gray) for gray in np.full(3, rng.integers(110, 190)))
        )
        centers = (
            ((0.5, 0.28), (0.5, 0.72))
            if place in ("above", "below")
            else ((0.28, 0.5), (0.72, 0.5))
        )
        for name, center in zip(
            names, centers if place in ("above", "left of") else centers[::-1], strict=True
        ):
            x, y = np.array(center) * SIZE + rng.uniform(-2, 2, 2)
            _draw_shape(ImageDraw.Draw(image), name, x, y, rng.uniform(9, 12))
        file_name = f"{index:05d}.png"
        image.save(folder / file_name)
        first, second = (f"a {name}" for name in names)
        yield (
            file_name,
            [
                f"{first} is {place} {second} .",
                f"There is {first} {place} {second}.",
                f"{first.capitalize()} {place} {second}",
            ],
        )


def _draw_shape(draw: ImageDraw.ImageDraw, name: str, x: float, y: float, radius: float) -> None:
    color, shape = name.split()
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=COLORS[color])
    elif shape == "square":
        draw.rectangle(box, fill=COLORS[color])
    else:
        draw.polygon(
            [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)],
            fill=COLORS[color],
        )


def _write(path: Path, drawn: list[tuple[str, list[str]]]) -> None:
    images = [
        {"id": number, "file_name": name, "width": SIZE, "height": SIZE}
        for number, (name, _) in enumerate(drawn)
    ]
    captions = [(number, caption) for number, (_, texts) in enumerate(drawn) for caption in texts]
    annotations = [
        {"id": i, "image_id": number, "caption": caption}
        for i, (number, caption) in enumerate(captions)
    ]
    path.write_text(
        json.dumps({"info": {}, "licenses": [], "images": images, "annotations": annotations})
    )
