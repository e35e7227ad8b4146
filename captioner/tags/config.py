"""A checkpoint's description of its classifier: its classes' nouns and its temperature."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from captioner.errors import ConfigError
from captioner.tags.table import TagTable
from captioner.tags.tagger import Tagger

TABLES = {"imagenet": TagTable.imagenet}


@dataclass(frozen=True)
class TagConfig:
    """The meaning of a classifier's logits.

    Attributes:
        table: The name of a table that ships with the package: "imagenet", the 1,000 classes of
            ImageNet-1k. Or the names of other classes, in the order of their logits: each is its
            own tag.
        temperature: The divisor of the logits that calibrates the probabilities.

    Raises:
        ConfigError: There is no such table, a name is empty or duplicated, or the temperature is
            not a positive number.
    """

    table: str | tuple[str, ...] = "imagenet"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not _is_table(self.table):
            raise ConfigError(
                f"tags.table is {self.table!r}; expected {' or '.join(TABLES)}, or a list of"
                " different names of classes."
            )
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, (int, float)):
            raise ConfigError(
                f"tags.temperature is {self.temperature!r}; expected a positive number."
            )
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(
                f"tags.temperature is {self.temperature}; expected a positive number."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TagConfig":
        """Create it from the result of `to_dict`.

        Raises:
            ConfigError: A key is unknown or missing, or a value out of range.
        """
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise ConfigError(f"tags has the keys {sorted(values)}; expected {sorted(expected)}.")
        table = values["table"]
        return cls(tuple(table) if isinstance(table, list) else table, values["temperature"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        table = self.table if isinstance(self.table, str) else list(self.table)
        return {"table": table, "temperature": self.temperature}

    @property
    def classes(self) -> int:
        """C, the number of the classifier's classes."""
        return len(_table(self.table).classes)

    @property
    def tagger(self) -> Tagger:
        """The conversion from the classifier's logits to tags."""
        return Tagger(_table(self.table), self.temperature)


def _is_table(table: object) -> bool:
    if isinstance(table, str):
        return table in TABLES
    names = table if isinstance(table, tuple) else ()
    whole = all(isinstance(name, str) and name.strip() for name in names)
    return bool(names) and whole and len(set(names)) == len(names)


@cache
def _table(table: str | tuple[str, ...]) -> TagTable:
    return TABLES[table]() if isinstance(table, str) else TagTable.of_classes(table)
