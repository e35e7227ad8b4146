"""Find the nouns that captions name: "two kittens on a sofa" names a cat and a couch.

A caption names a noun if it contains a form of it (singular or plural), of one of its synonyms, or
of a more specific noun: "owl" names a bird too. `synonyms.tsv` in this folder lists synonyms,
written by hand, including young animals ("kitten") and common kinds ("espresso"). Words are
tokenised like in the official COCO scorer, and word senses are not distinguished: "an orange shirt"
names the fruit.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captioner.tags.table import TagTable
from captioner.tokenizer import tokenize

SYNONYMS = Path(__file__).with_name("synonyms.tsv")

_IRREGULAR = {
    "calf": "calves",
    "child": "children",
    "foot": "feet",
    "goose": "geese",
    "knife": "knives",
    "loaf": "loaves",
    "man": "men",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "scarf": "scarves",
    "shelf": "shelves",
    "tooth": "teeth",
    "wolf": "wolves",
    "woman": "women",
}
_REGULAR = ("human", "mongoose")  # regular although they end like irregular nouns
_UNCHANGED = frozenset(
    (
        *("aircraft", "bison", "cattle", "deer", "salmon", "sheep", "swine", "trout", "wildlife"),
        *("binoculars", "blinds", "glasses", "jeans", "pajamas", "potatoes", "pyjamas", "shades"),
        *("gymnastics", "makeup", "shorts", "sunglasses", "swimwear", "triceratops", "trunks"),
    )
)
_WITH_ES = ("s", "x", "z", "ch", "sh", "potato", "tomato", "buffalo", "mosquito", "mango")


def plural(noun: str) -> str:
    """Return the plural of a lower-case noun: its last word, or the one before "of", changes."""
    head, of, rest = noun.partition(" of ")
    *before, last = head.split()
    return " ".join([*before, _plural(last)]) + of + rest


def _plural(word: str) -> str:
    """Inflect one word."""
    if word in _UNCHANGED or word.endswith("fish"):
        return word
    for singular, irregular in _IRREGULAR.items():
        if word == singular or (
            word.endswith(singular) and len(singular) > 2 and word not in _REGULAR
        ):
            return word.removesuffix(singular) + irregular  # bookshelf, but not box
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(_WITH_ES) else "s")


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """Read the synonyms of nouns, by noun."""
    _, *lines = SYNONYMS.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return {noun: tuple(others.split(", ")) for noun, others in rows}


@cache
def forms(noun: str) -> frozenset[str]:
    """Return the noun and its synonyms, singular and plural."""
    words = (noun, *synonyms().get(noun, ()))
    return frozenset(words) | frozenset(plural(word) for word in words)


class NounMatcher:
    """Find the nouns of a table that captions name.

    Args:
        table: The table.
    """

    def __init__(self, table: TagTable) -> None:
        self._table = table
        self._known: dict[int, frozenset[str]] = {}

    def names(self, caption: str, noun: int) -> bool:
        """Return whether a caption names the noun with this index."""
        forms_ = self._forms(noun)
        return not forms_.isdisjoint(_phrases(caption, _longest(forms_)))

    def named(self, captions: Iterable[str]) -> NDArray[np.bool_]:
        """Return which nouns at least one caption of a photo names (N,)."""
        of_nouns, longest = self._all_forms
        said = frozenset(phrase for caption in captions for phrase in _phrases(caption, longest))
        return np.array([not said.isdisjoint(forms_) for forms_ in of_nouns])

    def named_in(self, photos: Sequence[Iterable[str]]) -> NDArray[np.bool_]:
        """Return which nouns the captions of each photo name (B, N)."""
        return np.array([self.named(captions) for captions in photos])

    @cached_property
    def _all_forms(self) -> tuple[list[frozenset[str]], int]:
        """The forms of each noun, and the number of words of the longest form."""
        of_nouns = [self._forms(noun) for noun in range(len(self._table.nouns))]
        return of_nouns, max(map(_longest, of_nouns))

    def _forms(self, noun: int) -> frozenset[str]:
        """Return the forms of a noun and of more specific nouns; cached on first use."""
        if noun not in self._known:
            kinds = (noun, *np.flatnonzero(self._table.below[noun]))
            self._known[noun] = frozenset().union(*(forms(self._table.nouns[k]) for k in kinds))
        return self._known[noun]


@cache
def noun_matcher(table: TagTable) -> NounMatcher:
    """Return the matcher of a table; equal tables share one, as its forms take long to compute."""
    return NounMatcher(table)


def _longest(forms_: frozenset[str]) -> int:
    return max(len(form.split()) for form in forms_)


def _phrases(caption: str, longest: int) -> Iterator[str]:
    """Yield all runs of words up to a length; hyphens separate words ("hot-dog")."""
    words = tokenize(caption.replace("-", " "))
    for start in range(len(words)):
        for end in range(start + 1, min(len(words), start + longest) + 1):
            yield " ".join(words[start:end])
