"""Adversarial photos: the part `adversarial` of scripts/benchmark.py.

How large must a change be, chosen to mislead, until a caption names other things; can it be made to
say a given sentence; and what do simple defences bring? The attacks know the model and don't know
the defences. See docs/robustness.md.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioner.caption import Caption
from captioner.commands.terminal import track
from captioner.errors import DataError
from captioner.evaluation.chair import objects_named
from captioner.images import open_image
from captioner.inference import Captioner
from captioner.robustness.attacks import caption_loss, fgsm, ids_of, pgd
from captioner.tags import TagTable
from captioner.tags.matching import NounMatcher
from scripts.benchmark_robustness import find_photos

EPSILONS = (1, 2, 4, 8)  # of 255: whole numbers, so that what is captioned can be a file
STEPS = 10
TARGET_EPSILONS = (4, 8)  # below them it takes more steps
TARGET_STEPS = 20
TARGET = "a man riding a wave on a surfboard"
PHOTOS = 10
JPEG = 75

Photos = list[Image.Image]
Defence = Callable[[Image.Image], Image.Image]


class Nouns:
    """Says which things a caption names: nouns of the tags, and COCO's objects."""

    def __init__(self) -> None:
        self._table = TagTable.imagenet()
        self._matcher = NounMatcher(self._table)

    def __call__(self, caption: str) -> frozenset[str]:
        """Give the nouns."""
        flags = self._matcher.named([caption]).tolist()
        own = {noun for noun, flag in zip(self._table.nouns, flags, strict=True) if flag}
        return frozenset(own | set(objects_named(caption)))


def adversarial(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """The share of photos whose nouns change, by attack, defence and epsilon."""
    captioner = Captioner.from_pretrained(options.model, backend="torch")
    target = ids_of(captioner, options.target or TARGET)
    paths, _ = find_photos(options, PHOTOS)
    photos = [
        captioner.preprocessing.fit(open_image(path, min_size=captioner.preprocessing.size))
        for path in paths.values()
    ]
    nouns, captions = Nouns(), captioner.caption(photos)
    kept = [row for row, caption in enumerate(captions) if nouns(caption.text)]
    if not kept:
        raise DataError(f"No caption of {len(photos)} photos names a thing; expected one at least.")
    study = Study(
        captioner,
        [photos[row] for row in kept],
        [captions[row] for row in kept],
        nouns,
        seed=options.seed,
        batch_size=options.batch_size or 10,
    )
    rows = study.rows(target)
    smallest = study.smallest
    found = [value for value in smallest if value is not None]
    middle = f"{median(found):g}/255" if len(found) == len(smallest) else "above that of some"
    about = (
        f"Adversarial photos: {len(kept)} of {len(photos)} photos, whose captions name things;"
        " percent whose nouns change, by epsilon of 255 (0: the defence alone); the smallest"
        f" epsilon of PGD changes the nouns of {len(found)}, median {middle}"
    )
    return about, rows


class Study:
    """Attacks on some photos.

    Args:
        captioner: The model, on the torch backend.
        photos: N photos as the encoder sees them.
        captions: Their captions.
        nouns: Says which nouns a caption names.
        seed: Of what is random.
        batch_size: The most photos that are attacked at once.

    Attributes:
        smallest: The smallest epsilon of PGD that changes each photo's nouns; None where none
            does. Empty before `rows`.
    """

    def __init__(
        self,
        captioner: Captioner,
        photos: Photos,
        captions: Sequence[Caption],
        nouns: Nouns,
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        self.smallest: list[int | None] = []
        self._captioner = captioner
        self._photos = photos
        self._captions = captions
        self._nouns = [nouns(caption.text) for caption in captions]
        self._nouns_of = nouns
        self._seed = seed
        self._batch_size = batch_size

    def rows(self, target: Sequence[int]) -> list[dict[str, Any]]:
        """Attack all photos with each epsilon; the table.

        Args:
            target: The word ids of the sentence that the photos are made to say.
        """
        own = [[self._captioner.vocabulary.index(w) for w in c.words] for c in self._captions]
        said = self._captioner.vocabulary.text(list(target))
        defences: dict[str, Defence] = {f"JPEG {JPEG}": recompress, "half size": halve}
        table: dict[str, dict[int, float | None]] = {}

        def note(name: str, epsilon: int, value: float | None) -> None:
            table.setdefault(name, {})[epsilon] = value

        for name, defend in defences.items():
            note(f"PGD, then {name}", 0, self._share(self._changed([*map(defend, self._photos)])))
        note("confidence, PGD", 0, _confidence(self._captions))
        flags: list[list[bool]] = []
        for epsilon in track(EPSILONS, len(EPSILONS)):
            note("random signs", epsilon, self._share(self._changed(self._random(epsilon))))
            note("FGSM", epsilon, self._share(self._changed(self._attack(own, epsilon, 1))))
            attacked = self._attack(own, epsilon, STEPS)
            after = self._captioner.caption(attacked)
            flags.append(self._differ(after))
            note("PGD", epsilon, self._share(flags[-1]))
            note("confidence, PGD", epsilon, _confidence(after))
            for name, defend in defences.items():
                changed = self._changed([*map(defend, attacked)])
                note(f"PGD, then {name}", epsilon, self._share(changed))
            if epsilon in TARGET_EPSILONS:
                aimed = self._attack([target] * len(own), epsilon, TARGET_STEPS, sign=-1)
                texts = [caption.text for caption in self._captioner.caption(aimed)]
                note("says the sentence", epsilon, self._share([text == said for text in texts]))
        self.smallest = [
            next((e for e, flag in zip(EPSILONS, column, strict=True) if flag), None)
            for column in zip(*flags, strict=True)
        ]
        order = ["random signs", "FGSM", "PGD", *(f"PGD, then {name}" for name in defences)]
        order += ["confidence, PGD", "says the sentence"]
        columns = (0, *EPSILONS)
        return [
            {"": name, **{str(column): table[name].get(column) for column in columns}}
            for name in order
        ]

    def _attack(
        self, captions: Sequence[Sequence[int]], epsilon: int, steps: int, sign: int = 1
    ) -> Photos:
        """Attacked photos, as 8-bit images; one step is FGSM."""
        found: Photos = []
        for start in range(0, len(self._photos), self._batch_size):
            part = slice(start, start + self._batch_size)
            loss = caption_loss(self._captioner, captions[part])
            pixels = to_pixels(self._photos[part])

            def raised(at: Tensor, loss: Any = loss) -> Tensor:
                return sign * loss(at)  # type: ignore[no-any-return]

            if steps == 1:
                moved = fgsm(raised, pixels, epsilon / 255)
            else:
                moved = pgd(raised, pixels, epsilon / 255, steps=steps, seed=self._seed)
            found += to_images(moved)
        return found

    def _random(self, epsilon: int) -> Photos:
        random = torch.Generator().manual_seed(self._seed)
        pixels = to_pixels(self._photos)
        signs = torch.randint(0, 2, pixels.shape, generator=random) * 2 - 1
        return to_images((pixels + epsilon / 255 * signs).clamp(0, 1))

    def _changed(self, photos: Photos) -> list[bool]:
        return self._differ(self._captioner.caption(photos))

    def _differ(self, captions: Sequence[Caption]) -> list[bool]:
        """Whether each photo's caption names other things than before."""
        return [
            self._nouns_of(caption.text) != before
            for caption, before in zip(captions, self._nouns, strict=True)
        ]

    def _share(self, flags: Sequence[bool]) -> float:
        return 100 * mean(flags)


def _confidence(captions: Sequence[Caption]) -> float | None:
    """The mean confidence in percent; None where there is none."""
    known = [caption.confidence for caption in captions if caption.confidence is not None]
    return 100 * mean(known) if known else None


def to_pixels(photos: Photos) -> Tensor:
    """(B, 3, S, S) in 0..1."""
    return torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).permute(
        0, 3, 1, 2
    ) / torch.tensor(255.0)


def to_images(pixels: Tensor) -> Photos:
    """8-bit images of (B, 3, S, S) in 0..1."""
    values = (255 * pixels).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(each) for each in values]


def recompress(photo: Image.Image) -> Image.Image:
    """The photo after JPEG."""
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=JPEG)
    return Image.open(file).convert("RGB")


def halve(photo: Image.Image) -> Image.Image:
    """The photo at half its size and back."""
    small = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BICUBIC)
    return small.resize(photo.size, Image.Resampling.BICUBIC)
