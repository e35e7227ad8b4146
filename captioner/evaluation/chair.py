"""CHAIR: the share of objects in captions that are not in the photos."""

from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

import numpy as np

from captioner.errors import DataError
from captioner.evaluation.corpus import Corpus
from captioner.evaluation.metric import Floats, Measured, Need
from captioner.tags.matching import plural
from captioner.tokenizer import tokenize

OBJECTS = Path(__file__).with_name("coco_objects.tsv")

_NONE = "none"  # marks phrases that contain an object's word but name no object: "train station"


class ChairMetric:
    """CHAIR_i and CHAIR_s (Rohrbach et al. 2018, "Object Hallucination in Image Captioning").

    CHAIR_i is the share of object mentions that are hallucinated, that is, not in the photo;
    CHAIR_s is the share of captions with at least one hallucinated object. Lower is better. An
    object is in the photo if the instances file or one of the references names it. Objects are
    COCO's 80 categories. Their synonyms are in `coco_objects.tsv` next to this file, written by
    hand after the example of the published list. Singular and plural both count, and the longest
    phrase wins ("hot dog" names no dog); word senses are not distinguished. A caption without
    objects scores 0.
    """

    names = ("CHAIR_i", "CHAIR_s")
    needs: tuple[Need, ...] = ("instances",)

    def compute(self, corpus: Corpus) -> Measured:
        """Score each image.

        Raises:
            DataError: None of the images has an object of COCO's categories.
        """
        assert corpus.objects is not None
        known = {name for names in corpus.objects.values() for name in names} & objects()
        if not known:
            raise DataError(
                "CHAIR requires COCO's objects, but the instances file has no object of COCO's 80"
                " categories in these images"
            )
        counts = np.array(
            [
                _counts(corpus.captions[image_id], there(corpus.objects.get(image_id, ()), texts))
                for image_id, texts in corpus.references.items()
            ]
        )  # (N, 4)
        per_image = _from_counts(counts)  # (N, 2)
        whole = _from_counts(counts.sum(axis=0))
        return Measured(
            {name: float(value) for name, value in zip(self.names, whole, strict=True)},
            dict(zip(self.names, per_image.T, strict=True)),
            counts,
            _from_counts,
        )


def there(objects: Iterable[str], references: Collection[str]) -> frozenset[str]:
    """Return the objects in a photo: those annotated and those that its references name."""
    return frozenset(objects).union(*(objects_named(text) for text in references))


def objects_named(text: str) -> list[str]:
    """Find the COCO objects that a text names.

    Args:
        text: A sentence; hyphens separate words.

    Returns:
        The category name of each mention, in order.
    """
    phrases, longest = _phrases()
    words = tokenize(text.replace("-", " "))
    named, at = [], 0
    while at < len(words):
        for length in range(min(longest, len(words) - at), 0, -1):
            found = phrases.get(tuple(words[at : at + length]))
            if found is not None:
                named.append(found)
                at += length
                break
        else:
            at += 1
    return [name for name in named if name != _NONE]


@cache
def objects() -> frozenset[str]:
    """Return the names of COCO's 80 categories."""
    return frozenset(_phrases()[0].values()) - {_NONE}


@cache
def _phrases() -> tuple[dict[tuple[str, ...], str], int]:
    """Return the object that each phrase (a tuple of words) names, and the longest's length."""
    _, *lines = OBJECTS.read_text(encoding="utf-8").splitlines()
    found: dict[tuple[str, ...], str] = {}
    for line in lines:
        name, _, others = line.partition("\t")
        for phrase in (name, *filter(None, others.split(", "))):
            if phrase != _NONE:
                for form in (phrase, plural(phrase)):
                    found.setdefault(tuple(form.split()), name)
    return found, max(map(len, found))


def _counts(caption: str, there: Collection[str]) -> tuple[int, int, int, int]:
    """Count mentions, hallucinated mentions, captions with hallucinations, and captions."""
    named = objects_named(caption)
    wrong = sum(name not in there for name in named)
    return len(named), wrong, int(wrong > 0), 1


def _from_counts(counts: np.ndarray) -> Floats:
    """Compute both scores (..., 2) from summed counts (..., 4)."""
    named, wrong, captions_wrong, captions = np.moveaxis(counts.astype(np.float64), -1, 0)
    return np.stack(
        [wrong / np.maximum(named, 1), captions_wrong / np.maximum(captions, 1)], axis=-1
    )
