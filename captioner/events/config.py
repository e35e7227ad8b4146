"""A checkpoint's description of its events: their labels and the length of the model's window."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from captioner.errors import ConfigError

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
        labels = self.labels if isinstance(self.labels, tuple) else ()
        whole = all(isinstance(label, str) and label.strip() for label in labels)
        if not labels or not whole or len(set(labels)) != len(labels):
            raise ConfigError(
                f"events.labels is {self.labels!r}; expected one or more different labels."
            )
        seconds = self.seconds
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, (int, float))
            or not 0 < seconds < float("inf")
        ):
            raise ConfigError(f"events.seconds is {seconds!r}; expected a positive number.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EventConfig":
        """Create it from the result of `to_dict`.

        Raises:
            ConfigError: A key is unknown or missing, or a value out of range.
        """
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise ConfigError(f"events has the keys {sorted(values)}; expected {sorted(expected)}.")
        labels = values["labels"]
        return cls(tuple(labels) if isinstance(labels, list) else labels, values["seconds"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"labels": list(self.labels), "seconds": self.seconds}


def check_threshold(threshold: float) -> None:
    """Check a threshold.

    Raises:
        ConfigError: The threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; expected a number above 0, at most 1.")
