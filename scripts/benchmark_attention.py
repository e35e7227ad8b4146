"""Whether attention maps are meaningful: the part `attention` of scripts/benchmark.py.

For each word of a caption, hide the regions that it attends to most, a fifth of the photo, and
score the caption again. How much does the log-probability of that word drop, compared with hiding
the same number of other regions?

- random regions, averaged over several draws;
- the regions that other words of the caption attend to most: they would do as well if maps depended
  on the photo rather than on the word;
- the regions that words attend to most in another photo: they would do as well if maps were simply
  centred.

The differences are paired, word by word. The 95 % intervals are bootstrapped over whole photos,
since the words of a photo are not independent.
"""

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioner.annotations.records import check_images, load_records
from captioner.errors import ConfigError
from captioner.evaluation.statistics import interval, resample
from captioner.explain.evidence import is_content
from captioner.explain.occlusion import log_probs_hidden
from captioner.images import find_images, open_image
from captioner.inference import Captioner

ROOT = Path(__file__).parents[1]
SHARE = 0.2  # share of the regions to hide
PHOTOS = 300
DRAWS = 8  # draws of random regions per photo
RANDOM, OTHER_WORDS, OTHER_PHOTO = (
    "random regions",
    "those of other words",
    "those in another photo",
)


class Word(NamedTuple):
    """The drop of a word's log-probability in nats when attended or other regions are hidden."""

    photo: int
    text: str
    attended: float
    others: dict[str, float]


def attention(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Measure the drop of words' log-probabilities when attended or other regions are hidden."""
    captioner = Captioner.from_pretrained(options.model)
    photos = find_photos(
        options.images, options.annotations, PHOTOS if options.photos is None else options.photos
    )
    words = falls(captioner, photos)
    title = (
        f"Attention: {len(photos)} photos, {SHARE:.0%} of each hidden; falls of a word's"
        " log-probability in nats"
    )
    return title, rows_of(words)


def find_photos(images: Path | None, annotations: Path | None, most: int) -> list[Path]:
    """Return the photos of annotations (at most `most`, evenly chosen) or of a folder."""
    if annotations is not None:
        records = load_records(annotations, images)
        some = min(most, len(records))
        records = [records[number * len(records) // some] for number in range(some)]
        check_images(records)
        found = [record.path for record in records]
    else:
        found = list(islice(find_images(images or ROOT / "examples"), max(most, 0)))
    if len(found) < 2:
        raise ConfigError(
            f"{annotations or images or 'examples/'}: {len(found)} photos found; expected two or"
            " more."
        )
    return found


def falls(captioner: Captioner, photos: Sequence[Path]) -> list[Word]:
    """Measure every word of the captions of photos."""
    random = np.random.default_rng(0)
    found = []
    before = most_attended(captioner, photos[-1])
    for number, photo in enumerate(photos):
        pixels = captioner.preprocessing(open_image(photo, min_size=captioner.preprocessing.size))
        (caption,) = captioner.decode(captioner.backend.encode(pixels[None]))
        ids = [captioner.vocabulary.index(word) for word in caption.words]
        own = masks_of(caption.attention)  # (T, h, w)
        drawn = masks_of(random.random((DRAWS, *own.shape[1:])))
        masks = [np.zeros_like(own[:1]), own, drawn, before]
        start = captioner.vocabulary.start(captioner.decoding.style)
        # (1 + T + DRAWS + T', T)
        scores = log_probs_hidden(
            captioner.backend, pixels, ids, np.concatenate(masks), start=start
        )
        whole, hidden, by_chance, elsewhere = np.split(
            scores, np.cumsum([len(mask) for mask in masks[:-1]])
        )
        fall = whole - hidden  # (T, T): the column's word, if what the row's word attends is hidden
        for word, text in enumerate(caption.words):
            others = {
                RANDOM: (whole - by_chance)[:, word].mean(),
                OTHER_PHOTO: (whole - elsewhere)[:, word].mean(),
            }
            if len(ids) > 1:
                others[OTHER_WORDS] = np.delete(fall[:, word], word).mean()
            found.append(Word(number, text, fall[word, word], others))
        before = own
    return found


def most_attended(captioner: Captioner, photo: Path) -> NDArray[np.bool_]:
    """Return the regions that each word of a photo's caption attends to most, (T, h, w)."""
    (caption,) = captioner.caption(photo)
    return masks_of(caption.attention)


def masks_of(attention: NDArray[Any] | None) -> NDArray[np.bool_]:
    """Return masks of the largest values of each map (..., h, w): a fifth of them."""
    if attention is None:
        raise ConfigError(
            "This model has no attention; expected a model with attention, such as the bundled one."
        )
    flat = attention.reshape(len(attention), -1)
    masks = np.zeros(flat.shape, np.bool_)
    np.put_along_axis(
        masks, np.argsort(-flat, axis=1)[:, : max(1, round(SHARE * flat.shape[1]))], True, axis=1
    )
    return masks.reshape(attention.shape)


def rows_of(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Return the rows of the table."""
    content = [word for word in words if is_content(word.text)]
    function = [word for word in words if not is_content(word.text)]
    cases = [
        ("all", words, RANDOM),
        ("content words", content, RANDOM),
        ("function words", function, RANDOM),
    ]
    cases += [("content words", content, OTHER_WORDS), ("content words", content, OTHER_PHOTO)]
    return [
        row_of(name, [word for word in some if other in word.others], other)
        for name, some, other in cases
        if some
    ]


def row_of(name: str, words: Sequence[Word], other: str) -> dict[str, Any]:
    """Return the averages over words, and the interval of their difference."""
    photos = np.unique([word.photo for word in words], return_inverse=True)[1]
    attended = np.array([word.attended for word in words])
    instead = np.array([word.others[other] for word in words])
    counts, sums = np.bincount(photos), np.bincount(photos, attended - instead)  # (N,) by photo
    drawn = np.concatenate(
        [(weights @ sums) / (weights @ counts) for weights in resample(len(counts))]
    )
    low, high = interval(drawn)
    averages = {"attended": attended.mean().item(), "others": instead.mean().item()}
    difference = (attended - instead).mean().item()
    return {"words": name, "hidden instead": other, "count": len(words), **averages} | {
        "difference": difference,
        "from": low,
        "to": high,
    }
