"""Pictures with captions that a model can be calibrated on."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from captioner.inference import Captioner

PHOTOS = 60
OTHERS = ("a red ball on the beach", "two birds in blue water", "a street with a green cat")


def annotate(captioner: Captioner, picture: Callable[[int], Image.Image], folder: Path) -> Path:
    """Draw pictures; half of them have the model's own caption, and half name what it recognises.

    Returns:
        `photos.jsonl` in the folder.
    """
    paths = [folder / f"{number}.png" for number in range(PHOTOS)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    captions, tags = captioner.caption(paths), captioner.tag(paths, threshold=0, limit=1)
    rows = []
    for number, (path, caption, (tag,)) in enumerate(zip(paths, captions, tags, strict=True)):
        other = OTHERS[number % 3]
        texts = [other, caption.text if number % 2 else other]
        texts += [f"a {tag.noun}"] * (number % 4 < 2)
        rows += [{"image": path.name, "caption": text} for text in texts]
    file = folder / "photos.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file
