"""A tiny folder in COCO's layout: drawn shapes, official annotations, Karpathy's splits."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from captioner.datasets.shapes import COLORS, SHAPES


@dataclass(frozen=True)
class Drawn:
    """An image of the folder."""

    number: int  # COCO's id
    half: str  # the official half that it is in: train2014
    split: str  # Karpathy's: train, restval, val, test
    file_name: str
    captions: tuple[str, ...]


def draw_coco(
    folder: Path,
    *,
    train: int = 12,
    val: int = 4,
    test: int = 2,
    restval: int = 2,
    size: tuple[int, int] = (96, 72),
    seed: int = 0,
    year: int = 2014,
) -> list[Drawn]:
    """Draw the data set, and give what was drawn.

    As in COCO, `val2014/` holds the images of Karpathy's `val`, `test` and `restval`, and
    `train2014/` the others; `annotations/captions_{train,val}2014.json` tell them by official
    halves, `dataset_coco.json` by Karpathy's splits. In 2017 file names are bare numbers, and there
    is no Karpathy file.

    An image shows one shape of one colour, and has five captions. Twelve images show every kind
    once.
    """
    rng = np.random.default_rng(seed)
    drawn: list[Drawn] = []
    for split, count in (("train", train), ("restval", restval), ("val", val), ("test", test)):
        half = f"{'train' if split == 'train' else 'val'}{year}"
        (folder / half).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            kind, number = index % (len(COLORS) * len(SHAPES)), 9 + 16 * len(drawn)
            color, shape = list(COLORS)[kind % len(COLORS)], SHAPES[kind // len(COLORS)]
            file_name = f"{f'COCO_{half}_' if year == 2014 else ''}{number:012d}.jpg"
            across = size if index % 4 < 3 else size[::-1]  # some photos stand
            _picture(color, shape, across, rng).save(folder / half / file_name, quality=90)
            drawn.append(Drawn(number, half, split, file_name, _captions(color, shape)))
    (folder / "annotations").mkdir(exist_ok=True)
    for half in dict.fromkeys(image.half for image in drawn):
        official = _official([image for image in drawn if image.half == half], rng)
        _write(folder / "annotations" / f"captions_{half}.json", official)
    if year == 2014:
        _write(folder / "dataset_coco.json", karpathy(drawn))
    return drawn


def _picture(
    color: str, shape: str, size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    image = Image.new("RGB", size, (int(rng.integers(110, 190)),) * 3)
    draw = ImageDraw.Draw(image)
    radius = rng.uniform(0.3, 0.4) * min(size)
    x, y = (rng.uniform(radius, side - radius) for side in size)
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLORS[color])
    elif shape == "square":
        draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=COLORS[color])
    else:
        draw.polygon(
            [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)],
            fill=COLORS[color],
        )
    return image


def _captions(color: str, shape: str) -> tuple[str, ...]:
    return (
        f"A {color} {shape}.",
        f"a {color} {shape} on gray",
        f"There is a {color} {shape}.",
        f"A picture of a {color} {shape}.",
        f"One {shape}, and it is {color}. ",
    )


def _official(images: Sequence[Drawn], rng: np.random.Generator) -> dict[str, Any]:
    captions = [(image.number, caption) for image in images for caption in image.captions]
    return {
        "info": {"description": "drawn shapes"},
        "images": [
            {"license": 1, "file_name": image.file_name, "id": image.number} for image in images
        ],
        "licenses": [],
        "annotations": [  # in no order, like COCO's
            {"image_id": captions[index][0], "id": int(index) + 37, "caption": captions[index][1]}
            for index in rng.permutation(len(captions))
        ],
    }


def karpathy(images: Sequence[Drawn], *, dataset: str = "coco") -> dict[str, Any]:
    """Karpathy's entries for the images; those of a Flickr data set lack COCO's ids and folders."""
    return {
        "images": [
            {
                **({"filepath": image.half, "cocoid": image.number} if dataset == "coco" else {}),
                "sentids": [5 * index + k for k in range(len(image.captions))],
                "filename": image.file_name,
                "imgid": index,
                "split": image.split,
                "sentences": [
                    {
                        "tokens": caption.lower().replace(".", "").replace(",", "").split(),
                        "raw": caption,
                        "imgid": index,
                        "sentid": 5 * index + k,
                    }
                    for k, caption in enumerate(image.captions)
                ],
            }
            for index, image in enumerate(images)
        ],
        "dataset": dataset,
    }


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
