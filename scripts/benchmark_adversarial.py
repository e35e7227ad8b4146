"""Adversarial photos: the part `adversarial` of scripts/benchmark.py.

How large must an adversarial change be until a caption names other things? Can a model be made to
generate a given sentence? Do simple defences help? The attacks have full access to the model, but
don't know the defences. See docs/robustness.md.
"""

import argparse
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioner.backends.torch import TorchBackend
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

LEVELS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2)  # of 255: candidates for the smallest epsilon
EPSILONS = (1, 4)  # for the defences: whole numbers, so that the result can be an 8-bit file
STEPS = 5
TARGET_EPSILON = 8
TARGET_STEPS = 20
TARGET = "a man riding a wave on a surfboard"
PHOTOS = 10
JPEG = 75

Photos = list[Image.Image]


class Nouns:
    """Finds the things that a caption names: nouns of the tags, and COCO's objects."""

    def __init__(self) -> None:
        self._table = TagTable.imagenet()
        self._matcher = NounMatcher(self._table)

    def __call__(self, caption: str) -> frozenset[str]:
        """Return the nouns of a caption."""
        flags = self._matcher.named([caption]).tolist()
        own = {noun for noun, flag in zip(self._table.nouns, flags, strict=True) if flag}
        return frozenset(own | set(objects_named(caption)))


def adversarial(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Return the share of photos whose nouns change, by attack, defence and epsilon.

    Ctrl-C stops it and returns the results for the photos so far.
    """
    captioner = Captioner.from_pretrained(options.model, backend="torch")
    assert isinstance(captioner.backend, TorchBackend)
    captioner.backend.model.requires_grad_(False)  # only the gradient of the pixels is needed
    target = ids_of(captioner, options.target or TARGET)
    paths, _ = find_photos(options, PHOTOS)
    size = options.batch_size or 10
    files = list(paths.values())
    parts = [files[start : start + size] for start in range(0, len(files), size)]
    nouns, outcomes, seen = Nouns(), list[Outcome](), 0
    try:
        for part in track(parts, len(parts)):
            photos = [
                captioner.preprocessing.fit(open_image(path, min_size=captioner.preprocessing.size))
                for path in part
            ]
            outcomes += Attacked(captioner, photos, nouns, options.seed).outcomes(target)
            seen += len(part)
    except KeyboardInterrupt:
        if not outcomes:
            raise
    if not outcomes:
        raise DataError(f"No caption of {seen} photos names a thing; expected at least one.")
    about = (
        f"Adversarial photos: {len(outcomes)} of {seen} photos, whose captions name things; percent"
        " whose nouns change, by epsilon of 255 (0: the defence alone); smallest epsilon: "
        + ", ".join(f"{name} {_quartiles(name, outcomes)}" for name in ("FGSM", "PGD"))
    )
    return about, rows_of(outcomes)


@dataclass(frozen=True)
class Outcome:
    """The results of attacks on a photo.

    Attributes:
        smallest: The smallest epsilon of `LEVELS` at which each attack changes its nouns; infinity
            if none does.
        changed: Whether its nouns change, by the row of the table and the epsilon.
        confidence: The confidence of its caption, by the epsilon of PGD, 0 for none; None if the
            model provides none.
        said: Whether the targeted attack produced the sentence.
    """

    smallest: Mapping[str, float]
    changed: Mapping[tuple[str, float], bool]
    confidence: Mapping[float, float | None]
    said: bool


class Attacked:
    """A batch of photos to attack; photos whose captions name nothing are skipped.

    Args:
        captioner: The model, on the torch backend.
        photos: Photos as the encoder sees them.
        nouns: Finds the nouns of a caption.
        seed: The random seed.
    """

    def __init__(self, captioner: Captioner, photos: Photos, nouns: Nouns, seed: int) -> None:
        captions = captioner.caption(photos)
        kept = [row for row, caption in enumerate(captions) if nouns(caption.text)]
        self._captioner = captioner
        self._nouns_of = nouns
        self._seed = seed
        self._captions = [captions[row] for row in kept]
        self._nouns = [nouns(caption.text) for caption in self._captions]
        self._pixels = to_pixels([photos[row] for row in kept]) if kept else torch.empty(0)

    def outcomes(self, target: Sequence[int]) -> list[Outcome]:
        """Attack the photos.

        Args:
            target: The word ids of the sentence that targeted attacks aim for.
        """
        if not self._captions:
            return []
        rows = range(len(self._captions))
        pgds = {epsilon: self._attack(rows, [epsilon] * len(rows), STEPS) for epsilon in EPSILONS}
        after = {epsilon: self._say(pixels) for epsilon, pixels in pgds.items()}

        def changes(steps: int, rows: Sequence[int], epsilons: Sequence[float]) -> list[bool]:
            return self._differ(rows, self._say(self._attack(rows, epsilons, steps)))

        by_fgsm = find_smallest(partial(changes, 1), [math.inf] * len(rows))
        smallest = {"FGSM": by_fgsm, "PGD": find_smallest(partial(changes, STEPS), by_fgsm)}
        changed = self._under_defences(pgds)
        said = self._captioner.vocabulary.text(list(target))
        aimed = self._attack(rows, [TARGET_EPSILON] * len(rows), TARGET_STEPS, target=target)
        texts = [caption.text for caption in self._say(aimed)]
        return [
            Outcome(
                {name: found[row] for name, found in smallest.items()},
                {key: flags[row] for key, flags in changed.items()},
                {
                    0: self._captions[row].confidence,
                    **{epsilon: after[epsilon][row].confidence for epsilon in EPSILONS},
                },
                texts[row] == said,
            )
            for row in rows
        ]

    def _under_defences(self, pgds: Mapping[int, Tensor]) -> dict[tuple[str, float], list[bool]]:
        """Return whether each photo's nouns change, by the row of the table and the epsilon."""
        rows = range(len(self._captions))
        changed = {}
        for epsilon in EPSILONS:
            captions = self._say(self._random(epsilon))
            changed["random signs", float(epsilon)] = self._differ(rows, captions)
        shown = {0: self._pixels, **pgds}
        for (name, defend), (epsilon, pixels) in product(DEFENCES.items(), shown.items()):
            captions = self._say(to_pixels([*map(defend, to_images(pixels))]))
            changed[f"PGD, then {name}", float(epsilon)] = self._differ(rows, captions)
        return changed

    def _attack(
        self,
        rows: Sequence[int],
        epsilons: Sequence[float],
        steps: int,
        target: Sequence[int] | None = None,
    ) -> Tensor:
        """Attack some photos, each with its own epsilon; one step is FGSM.

        Returns:
            (B, 3, S, S) in 0..1, representable in 8 bits if the epsilon is a whole number.
        """
        index = self._captioner.vocabulary.index
        own = [[index(word) for word in self._captions[row].words] for row in rows]
        words = caption_loss(self._captioner, own if target is None else [target] * len(rows))

        def raised(at: Tensor) -> Tensor:
            return words(at) if target is None else -words(at)

        each = torch.tensor(epsilons, dtype=torch.float32).view(-1, 1, 1, 1)
        pixels = self._pixels[list(rows)]
        if steps == 1:
            moved = fgsm(raised, pixels, each / 255)
        else:
            moved = pgd(raised, pixels, each / 255, steps=steps, seed=self._seed)
        return torch.where(each >= 1, (255 * moved).round() / 255, moved)

    def _random(self, epsilon: float) -> Tensor:
        random = torch.Generator().manual_seed(self._seed)
        signs = torch.randint(0, 2, self._pixels.shape, generator=random) * 2 - 1
        return (self._pixels + epsilon / 255 * signs).clamp(0, 1)

    def _say(self, pixels: Tensor) -> list[Caption]:
        """Caption pixels (B, 3, S, S) in 0..1, which need not be representable in 8 bits."""
        preprocessing = self._captioner.preprocessing
        mean_, std = (
            torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
        )
        encoded = self._captioner.backend.encode(((pixels - mean_) / std).numpy())
        return self._captioner.decode(encoded)

    def _differ(self, rows: Iterable[int], captions: Sequence[Caption]) -> list[bool]:
        """Return whether each photo's caption names other things than before."""
        return [
            self._nouns_of(caption.text) != self._nouns[row]
            for row, caption in zip(rows, captions, strict=True)
        ]


def find_smallest(
    changes: Callable[[Sequence[int], Sequence[float]], list[bool]], known: Sequence[float]
) -> list[float]:
    """Find the smallest epsilon of `LEVELS` at which photos change, by batched bisection.

    Assumes that a photo that changes at one epsilon changes at all larger ones.

    Args:
        changes: Whether the given photos change, by their rows and each with its own epsilon.
        known: An epsilon of `LEVELS` at which each photo is known to change; infinity for none.

    Returns:
        The epsilon of each photo; infinity if none changes it.
    """
    levels = [*LEVELS, math.inf]
    low, high = [0] * len(known), [levels.index(level) for level in known]
    while rows := [row for row in range(len(known)) if low[row] < high[row]]:
        middle = [(low[row] + high[row]) // 2 for row in rows]
        flags = changes(rows, [levels[level] for level in middle])
        for row, level, changed in zip(rows, middle, flags, strict=True):
            if changed:
                high[row] = level
            else:
                low[row] = level + 1
    return [levels[level] for level in high]


def rows_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the table: a row for each attack, each defence, and the confidence."""
    columns = sorted({0.0, *map(float, LEVELS), *map(float, EPSILONS), float(TARGET_EPSILON)})
    table: dict[str, dict[float, float | None]] = {"random signs": {}}
    for name in ("FGSM", "PGD"):
        table[name] = {
            level: _share(each.smallest[name] <= level for each in outcomes) for level in LEVELS
        }
    for name, epsilon in outcomes[0].changed:
        share = _share(each.changed[name, epsilon] for each in outcomes)
        table.setdefault(name, {})[epsilon] = share
    clean, *attacked = (
        [each.confidence[epsilon] for each in outcomes] for epsilon in (0, *EPSILONS)
    )
    table["confidence, PGD"] = {
        float(epsilon): _percent(values)
        for epsilon, values in zip((0, *EPSILONS), (clean, *attacked), strict=True)
    }
    table["AUC of confidence, PGD"] = {
        float(epsilon): auc(clean, values)
        for epsilon, values in zip(EPSILONS, attacked, strict=True)
    }
    table["says the sentence"] = {float(TARGET_EPSILON): _share(each.said for each in outcomes)}
    return [
        {"": name, **{str(Fraction(column)): row.get(column) for column in columns}}
        for name, row in table.items()
    ]


def auc(clean: Sequence[float | None], attacked: Sequence[float | None]) -> float | None:
    """Return the probability in percent that a clean photo's confidence is above an attacked one's.

    50 is chance, 100 is perfect separation. A tie counts half. None without confidence.
    """
    pairs = [(c, a) for c, a in product(clean, attacked) if c is not None and a is not None]
    return 100 * mean((c > a) + (c == a) / 2 for c, a in pairs) if pairs else None


def _quartiles(name: str, outcomes: Sequence[Outcome]) -> str:
    """Return the median and the quartiles of an attack's smallest epsilon."""
    found = sorted(each.smallest[name] for each in outcomes)
    first, middle, third = (
        _told(found[min(len(found) - 1, int(share * len(found)))]) for share in (0.25, 0.5, 0.75)
    )
    return f"{middle} (quartiles {first} and {third})"


def _told(epsilon: float) -> str:
    return str(Fraction(epsilon)) if epsilon < math.inf else f"above {Fraction(LEVELS[-1])}"


def _share(flags: Iterable[bool]) -> float:
    return 100 * mean(flags)


def _percent(values: Sequence[float | None]) -> float | None:
    """Return the mean in percent; None if there are no values."""
    known = [value for value in values if value is not None]
    return 100 * mean(known) if known else None


def to_pixels(photos: Photos) -> Tensor:
    """Convert photos to pixels (B, 3, S, S) in 0..1."""
    return torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).permute(
        0, 3, 1, 2
    ) / torch.tensor(255.0)


def to_images(pixels: Tensor) -> Photos:
    """Convert pixels (B, 3, S, S) in 0..1 to 8-bit images."""
    values = (255 * pixels).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(each) for each in values]


def recompress(photo: Image.Image) -> Image.Image:
    """Return the photo after JPEG compression."""
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=JPEG)
    return Image.open(file).convert("RGB")


def halve(photo: Image.Image) -> Image.Image:
    """Return the photo scaled to half its size and back."""
    small = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BICUBIC)
    return small.resize(photo.size, Image.Resampling.BICUBIC)


DEFENCES: dict[str, Callable[[Image.Image], Image.Image]] = {
    f"JPEG {JPEG}": recompress,
    "half size": halve,
}
