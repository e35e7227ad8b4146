"""A checkpoint's confidence calibration, one for each style of captions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.confidence.signals import SIGNALS, TAG_SIGNALS
from captioner.errors import ConfigError
from captioner.sections import is_count, is_number


@dataclass(frozen=True)
class Calibration:
    """A logistic regression from signals of a caption to the probability that it is good.

    Attributes:
        good: A caption is good if its CIDEr-D against the photo's reference captions is at least
            this, from 0 to 10.
        photos: The number of photos it was fitted to.
        bias: The bias of the logit.
        weights: The weight of each signal, by its name in `captioner.confidence.signals`.

    Raises:
        ConfigError: A signal is unknown, or a value is not a number or out of range.
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
                    f"Unknown confidence signal {name!r}; expected some of {', '.join(SIGNALS)}."
                )
        for name, value in {"good": self.good, "bias": self.bias, **self.weights}.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"confidence.{name} is {value!r}; expected a number.")
            if not is_number(value):
                raise ConfigError(f"confidence.{name} is {value}; expected a finite number.")
        check_good(self.good)
        if not is_count(self.photos):
            raise ConfigError(f"confidence.photos is {self.photos!r}; expected 1 or more.")

    @property
    def needs_tags(self) -> bool:
        """Whether it requires a model with a classifier."""
        return any(name in TAG_SIGNALS for name in self.weights)

    def probability(
        self, signals: NDArray[np.float64], names: Sequence[str]
    ) -> NDArray[np.float64]:
        """Compute the probability that each of B captions is good.

        Args:
            signals: (B, F) from `SignalReader.read`.
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
        """Create it from the result of `to_dict`.

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
        """Return plain data for JSON."""
        return {
            style: {**asdict(entry), "weights": dict(entry.weights)}
            for style, entry in self.styles.items()
        }

    def with_style(self, style: str, calibration: Calibration) -> "Confidence":
        """Return a copy with the calibration of a style added or replaced."""
        return Confidence({**self.styles, style: calibration})


def check_good(good: float) -> None:
    """Check that a threshold of CIDEr-D is in range.

    Raises:
        ConfigError: It is out of range.
    """
    if not isinstance(good, Real) or not 0 < good < 10:
        raise ConfigError(
            f"The CIDEr-D of a good caption is {good!r}; expected a number between 0 and 10 (0.5 is"
            " 50 points)."
        )


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert logits to probabilities, without overflow."""
    probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0, -logits))
    return probabilities
