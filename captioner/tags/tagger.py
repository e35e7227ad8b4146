"""Convert a classifier's logits to tags: nouns with calibrated probabilities."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from captioner.errors import ConfigError
from captioner.tags.table import TagTable

# the most likely noun is right in 70 % of the photos where it has 0.5 or more, in 79 % at 0.8
THRESHOLD = 0.3
LIMIT = 5

_EXPLAINED = 0.5


@dataclass(frozen=True)
class Tag:
    """A noun for what is in an image.

    Attributes:
        noun: In lower case, singular unless it has no singular; possibly several words.
        probability: The probability that it is in the image, between 0 and 1.
    """

    noun: str
    probability: float

    def to_dict(self) -> dict[str, str | float]:
        """Return plain data for JSON."""
        return {"noun": self.noun, "probability": self.probability}


@dataclass(frozen=True)
class Tagger:
    """Convert logits to tags.

    Attributes:
        table: The nouns of the classifier's C classes.
        temperature: The divisor of the logits that calibrates the probabilities; fitted by
            `captioner.tags.calibration`.

    Raises:
        ValueError: The temperature is not a positive number.
    """

    table: TagTable
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"the temperature is {self.temperature}; expected a positive number")

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sum, for every noun, the probabilities of the classes that are a kind of it.

        Args:
            logits: (B, C) of the classes.

        Returns:
            (B, N), in the order of `TagTable.nouns`. The nouns of an image don't sum up to 1: an
            owl is a bird too.

        Raises:
            ValueError: There are not C logits for each image.
        """
        return self._classes(logits) @ self.table.members

    def best(self, logits: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Find the most likely noun of each image, ignoring more general words, for calibration.

        Args:
            logits: (B, C) of the classes.

        Returns:
            (B,) its index in `TagTable.nouns`, and (B,) the total probability of the classes whose
            noun it is. For a noun that is also a more general word ("bird" of owls), this excludes
            the classes with a more specific noun.
        """
        shares = self._classes(logits) @ self.table.own  # (B, N), sums up to 1
        return shares.argmax(1), shares.max(1)

    def tags(
        self, logits: NDArray[np.floating], *, threshold: float = THRESHOLD, limit: int = LIMIT
    ) -> list[tuple[Tag, ...]]:
        """Tag each image, with the most likely noun first.

        A more general word is omitted if one tag below it has half of its probability: "owl" needs
        no "bird" beside it. Otherwise it is the best description: owl 0.2, hawk 0.2 and eagle 0.2
        make bird 0.6.

        Args:
            logits: (B, C) of the classes.
            threshold: Minimum probability of a tag, from 0 to 1.
            limit: Maximum number of tags per image, at least 1.

        Returns:
            The tags of each image; empty if none reaches the threshold.

        Raises:
            ConfigError: The threshold or the limit is out of range.
            ValueError: There are not C logits for each image.
        """
        return self.select(self.probabilities(logits), threshold=threshold, limit=limit)

    def select(
        self, nouns: NDArray[np.float64], *, threshold: float = THRESHOLD, limit: int = LIMIT
    ) -> list[tuple[Tag, ...]]:
        """Do what `tags` does, from the nouns' probabilities.

        Args:
            nouns: (B, N), by `probabilities`.
            threshold: As for `tags`.
            limit: As for `tags`.

        Returns:
            The tags of each image.

        Raises:
            ConfigError: The threshold or the limit is out of range.
        """
        self.check(threshold, limit)
        return [self._tags(row, threshold, limit) for row in nouns]

    @staticmethod
    def check(threshold: float, limit: int) -> None:
        """Check the options of `tags`.

        Raises:
            ConfigError: The threshold or the limit is out of range.
        """
        if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
            raise ConfigError(
                f"The threshold of tags is {threshold!r}; expected a probability from 0 to 1."
            )
        if isinstance(limit, bool) or not isinstance(limit, Integral) or limit < 1:
            raise ConfigError(
                f"The limit of tags is {limit!r}; expected a whole number, 1 or more."
            )

    def _tags(
        self, probabilities: NDArray[np.float64], threshold: float, limit: int
    ) -> tuple[Tag, ...]:
        """Tag one image, from (N,) probabilities."""
        (said,) = np.nonzero(probabilities >= max(threshold, np.finfo(np.float64).tiny))
        narrower = (
            self.table.below[np.ix_(said, said)] * probabilities[said]
        )  # (said, said): more specific nouns
        kept = said[narrower.max(1, initial=0) < _EXPLAINED * probabilities[said]]
        order = kept[np.argsort(-probabilities[kept], kind="stable")][:limit]
        return tuple(
            Tag(self.table.nouns[noun], min(1.0, float(probabilities[noun]))) for noun in order
        )

    def _classes(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Convert logits (B, C) to calibrated probabilities (B, C)."""
        classes = len(self.table.classes)
        if logits.ndim != 2 or logits.shape[1] != classes:
            raise ValueError(f"logits of shape {logits.shape}; expected (images, {classes})")
        return softmax(logits.astype(np.float64) / self.temperature)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert logits (B, C) to probabilities (B, C)."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(1, keepdims=True)
    return probabilities
