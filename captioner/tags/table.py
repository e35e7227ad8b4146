"""Map a classifier's classes to everyday nouns: "tabby" and "Persian cat" are cats.

A table is a TSV file with a header and a line for each class, in the order of the classifier's
logits:

    index   class           noun    more general
    24      great grey owl  owl     bird, animal

`noun` is what a person would call it in a caption; the columns after it are more general words,
the nearest first. `imagenet.tsv` in this folder has the 1,000 classes of ImageNet-1k, written and
reviewed by hand. Its nouns are words that captions use: a rare species has the noun of its kind. A
noun has one sense: the crane that is a bird has the noun "bird".
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captioner.errors import DataError

IMAGENET = Path(__file__).with_name("imagenet.tsv")

_HEADER = ("index", "class", "noun", "more general")


@dataclass(frozen=True)
class TagTable:
    """The nouns of a classifier's C classes.

    Attributes:
        classes: The classifier's names of its classes, in the order of its logits.
        words: For each class its noun, then more general words, the nearest first.

    Raises:
        ValueError: A class has no noun, a class is duplicated, or a word is empty, not lower-case
            or repeated within a class.
    """

    classes: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.words) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes, but words for {len(self.words)}")
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"duplicate class {twice!r}")
        for name, words in zip(self.classes, self.words, strict=True):
            if not words:
                raise ValueError(f"the class {name!r} has no noun")
            for word in words:
                if not word or word != _as_noun(word):
                    raise ValueError(f"class {name!r}: {word!r} is not a lower-case noun")
            if len(set(words)) < len(words):
                raise ValueError(f"class {name!r} has a word twice: {', '.join(words)}")

    @classmethod
    def of_classes(cls, classes: Sequence[str]) -> "TagTable":
        """Use each class's own name in lower case as its noun.

        Raises:
            ValueError: A name is empty or duplicated.
        """
        return cls(tuple(classes), tuple((_as_noun(name),) for name in classes))

    @classmethod
    def imagenet(cls) -> "TagTable":
        """Read the table of ImageNet-1k, which ships with the package."""
        return cls.load(IMAGENET)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TagTable":
        """Read a table; the noun of a class without one is its own name.

        Args:
            path: A TSV file as the module's docstring shows it, in UTF-8.

        Raises:
            DataError: The file cannot be read, or does not hold a table.
        """
        hint = (
            f"Expected tab-separated lines of {', '.join(_HEADER)}, with these words as the first"
            " line."
        )
        classes, words = [], []
        try:
            rows = [
                line.split("\t") for line in Path(path).read_text(encoding="utf-8").splitlines()
            ]
            if not rows or tuple(rows[0]) != _HEADER:
                raise ValueError("the first line is not the header")
            for number, row in enumerate(rows[1:]):
                if not 2 <= len(row) <= len(_HEADER) or row[0] != str(number):
                    raise ValueError(
                        f"line {number + 2} should have the index {number}, and 2 to 4 columns"
                    )
                name, noun, wider = (*row[1:], "", "")[:3]
                classes.append(name)
                wider_words = (word.strip() for word in wider.split(",")) if wider else ()
                words.append((noun or _as_noun(name), *wider_words))
            return cls(tuple(classes), tuple(words))
        except OSError as error:
            raise DataError(
                f"{path}: cannot read the tag table: {error.strerror or error}. {hint}"
            ) from error
        except ValueError as error:  # UTF-8 errors are ValueErrors
            raise DataError(f"{path}: not a tag table: {error}. {hint}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to `path`, as `load` reads it."""
        rows = (
            (str(index), name, words[0], ", ".join(words[1:]))
            for index, (name, words) in enumerate(zip(self.classes, self.words, strict=True))
        )
        text = "".join("\t".join(row).rstrip("\t") + "\n" for row in (_HEADER, *rows))
        Path(path).write_text(text, encoding="utf-8")

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        """All N words of the table, each once, in the order in which they first appear."""
        return tuple(dict.fromkeys(word for words in self.words for word in words))

    @cached_property
    def members(self) -> NDArray[np.float32]:
        """(C, N): 1 where a class is a kind of the noun."""
        ids = {noun: index for index, noun in enumerate(self.nouns)}
        members = np.zeros((len(self.classes), len(self.nouns)), np.float32)
        for row, words in zip(members, self.words, strict=True):
            row[[ids[word] for word in words]] = 1
        return members

    @cached_property
    def own(self) -> NDArray[np.float32]:
        """(C, N): 1 where the noun is the class's first word: each class has exactly one."""
        ids = {noun: index for index, noun in enumerate(self.nouns)}
        own = np.zeros_like(self.members)
        own[range(len(self.classes)), [ids[words[0]] for words in self.words]] = 1
        return own

    @cached_property
    def below(self) -> NDArray[np.bool_]:
        """(N, N): where the second noun is a kind of the first, as an owl is of a bird."""
        ids = {noun: index for index, noun in enumerate(self.nouns)}
        below = np.zeros((len(self.nouns), len(self.nouns)), np.bool_)
        for words in self.words:
            for place, wider in enumerate(words):
                below[ids[wider], [ids[word] for word in words[:place]]] = True
        return below


def _as_noun(name: str) -> str:
    """Write a class's name in lower case, with single spaces."""
    return " ".join(name.lower().split())
