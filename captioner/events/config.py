"""A checkpoint's description of its events: their labels and the length of the model's window."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from captioner.errors import ConfigError
from captioner.sections import are_names, check_positive, read_section

THRESHOLD = 0.5
"""The minimum probability at which an event is reported."""
NO_EVENTS = (
    "This model recognises no events. Use one that was trained with data.events, for example by:"
    " captioner train --config tiny_events"
)


@dataclass(frozen=True)
class EventConfig:
    """The meaning of the logits of a model that recognises events.

    Attributes:
        labels: E different labels, in the order of the logits.
        seconds: The length of the model's window in seconds: the usual length of the clips that it
            was trained on. Each of its F frames is a step of `seconds` / F.

    Raises:
        ConfigError: `labels` is empty or has an empty or duplicate label, or `seconds` is not a
            positive number.
    """

    labels: tuple[str, ...]
    seconds: float

    def __post_init__(self) -> None:
        """Check the values."""
        if not are_names(self.labels):
            raise ConfigError(
                f"events.labels is {self.labels!r}; expected one or more different labels."
            )
        check_positive("events.seconds", self.seconds)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EventConfig":
        """Create it from the result of `to_dict`.

        Raises:
            ConfigError: A key is unknown or missing, or a value out of range.
        """
        return read_section(cls, "events", values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"labels": list(self.labels), "seconds": self.seconds}


def check_threshold(threshold: float) -> None:
    """Check a threshold.

    Raises:
        ConfigError: The threshold is out of range.
    """
    if not isinstance(threshold, Real) or not 0 < threshold <= 1:
        raise ConfigError(f"threshold is {threshold!r}; expected a number above 0, at most 1.")
