"""What a checkpoint says about the confidence of its captions: a calibration for each style."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.confidence.signals import SIGNALS, TAG_SIGNALS
from captioner.errors import ConfigError


@dataclass(frozen=True)
class Calibration:
    """A logistic regression: signals of a caption -> the probability that the caption is good.

    Attributes:
        good: A caption is good if its own CIDEr-D against people's captions of the photo is at
            least this, from 0 to 10.
        photos: How many photos it was fitted to.
        bias: The log-odds where all signals are 0.
        weights: By how much the log-odds grow with each signal, by its name in
            `captioner.confidence.signals`.

    Raises:
        ConfigError: A signal is unknown, or a value is not a number in range.
    """

    good: float
    photos: int
    bias: float
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping):
            raise ConfigError(f"confidence.weights is {self.weights!r}; expected a JSON object.")
        for name in self.weights:
            if name not in SIGNALS:
                raise ConfigError(
                    f"confidence has the signal {name!r}; expected some of {', '.join(SIGNALS)}."
                )
        for name, value in {"good": self.good, "bias": self.bias, **self.weights}.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"confidence.{name} is {value!r}; expected a number.")
            if not math.isfinite(value):
                raise ConfigError(f"confidence.{name} is {value}; expected a finite number.")
        check_good(self.good)
        if isinstance(self.photos, bool) or not isinstance(self.photos, int) or self.photos < 1:
            raise ConfigError(f"confidence.photos is {self.photos!r}; expected 1 or more.")

    @property
    def needs_tags(self) -> bool:
        """Whether it needs a model with a classifier."""
        return any(name in TAG_SIGNALS for name in self.weights)

    def probability(
        self, signals: NDArray[np.float64], names: Sequence[str]
    ) -> NDArray[np.float64]:
        """Compute the probability that each of B captions is good.

        Args:
            signals: (B, F) as `SignalReader.read` gives them.
            names: The names of the F signals.

        Returns:
            (B,), from 0 to 1.
        """
        weights = np.array([self.weights.get(name, 0.0) for name in names])
        return sigmoid(self.bias + signals @ weights)


@dataclass(frozen=True)
class Confidence:
    """The calibrations of a model.

    Attributes:
        styles: A calibration for each style of captions that has one; "" is the plain style.
    """

    styles: Mapping[str, Calibration]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Confidence":
        """Make one from what `to_dict` gave.

        Raises:
            ConfigError: A key is unknown or missing, or a value out of range.
        """
        expected = {field.name for field in fields(Calibration)}
        for style, entry in values.items():
            if not isinstance(entry, dict) or set(entry) != expected:
                raise ConfigError(
                    f"confidence of the style {style!r} is {entry!r}; expected an object with the"
                    f" keys {', '.join(sorted(expected))}."
                )
        return cls({style: Calibration(**entry) for style, entry in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON."""
        return {
            style: {**asdict(entry), "weights": dict(entry.weights)}
            for style, entry in self.styles.items()
        }

    def with_style(self, style: str, calibration: Calibration) -> "Confidence":
        """Give the same with the calibration of a style added or replaced."""
        return Confidence({**self.styles, style: calibration})


def check_good(good: float) -> None:
    """Refuse a CIDEr-D that no caption can have.

    Raises:
        ConfigError: It is out of range.
    """
    if not 0 < good < 10:
        raise ConfigError(
            f"A good caption's CIDEr-D is {good}; expected a number between 0 and 10 (0.5 is 50"
            " points)."
        )


def sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn log-odds into probabilities, without overflow."""
    probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0, -log_odds))
    return probabilities
