"""Which words of a vocabulary name a classifier's classes: what a pointer can point to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captioner.tags.matching import forms
from captioner.tags.table import TagTable


@dataclass(frozen=True)
class ClassWords:
    """The T words of a vocabulary that name classes: forms of their nouns and of more general ones.

    Attributes:
        words: (T,) their ids in the vocabulary, ascending.
        classes: (P,) the classes of all P pairs of a class and a word that names it.
        places: (P,) the index in `words` of each pair's word.
    """

    words: NDArray[np.int64]
    classes: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def find(cls, table: TagTable, vocabulary: Sequence[str]) -> "ClassWords":
        """Find them: nouns and synonyms of a single word, singular and plural.

        Args:
            table: The nouns of the classes.
            vocabulary: The words, in id order.
        """
        ids_of = {word: index for index, word in enumerate(vocabulary)}
        known = {
            noun: [ids_of[form] for form in sorted(forms(noun)) if form in ids_of]
            for noun in table.nouns
        }
        named = [
            {word for noun in nouns for word in known[noun]} for nouns in table.words
        ]  # of each class
        words = np.array(sorted(set().union(*named)), np.int64)
        pairs = [(index, word) for index, ids in enumerate(named) for word in sorted(ids)]
        classes, ids = np.array(pairs, np.int64).reshape(-1, 2).T
        return cls(words, classes, np.searchsorted(words, ids))
