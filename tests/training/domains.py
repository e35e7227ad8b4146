"""Two drawn domains without common nouns: one learnt first, and somebody's own photos."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (214, 40, 40),
    "green": (60, 160, 70),
    "blue": (40, 90, 200),
    "yellow": (240, 200, 40),
    "purple": (140, 40, 170),
    "orange": (240, 130, 20),
    "white": (250, 250, 250),
}
OLD = [
    f"{color} {shape}"
    for color in ("red", "green", "blue", "yellow")
    for shape in ("circle", "square", "triangle")
]
NEW = [
    f"{color} {shape}"
    for color in ("purple", "orange", "white")
    for shape in ("star", "cross", "ring")
]
NEW_WORDS = {"purple", "orange", "white", "star", "cross", "ring"}


def draw_domain(folder: Path, things: Sequence[str], count: int, seed: int = 0) -> Path:
    """Draw images of one thing each, equally often, and their table with two captions an image."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with (folder / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for number in range(count):
            thing = things[number % len(things)]
            image = Image.new("RGB", (64, 64), (int(rng.integers(100, 190)),) * 3)
            _draw(ImageDraw.Draw(image), thing, *rng.uniform(26, 38, 2), rng.uniform(18, 26))
            image.save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", f"A {thing} on a gray wall."])
            rows.writerow([f"{number}.png", f"There is a {thing}"])
    return folder / "photos.csv"


def _draw(draw: ImageDraw.ImageDraw, thing: str, x: float, y: float, radius: float) -> None:
    color, shape = thing.split()
    fill, box, third = COLORS[color], (x - radius, y - radius, x + radius, y + radius), radius / 3
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "triangle":
        draw.polygon(
            [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=fill
        )
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=round(third))
    elif shape == "cross":
        draw.rectangle((x - radius, y - third, x + radius, y + third), fill=fill)
        draw.rectangle((x - third, y - radius, x + third, y + radius), fill=fill)
    else:
        angles, reach = np.pi * np.arange(10) / 5, np.where(np.arange(10) % 2, 0.4 * radius, radius)
        draw.polygon(
            [*zip(x + reach * np.sin(angles), y - reach * np.cos(angles), strict=True)], fill=fill
        )
