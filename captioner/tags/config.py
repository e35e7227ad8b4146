"""A checkpoint's description of its classifier: its classes' nouns and its temperature."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from captioner.errors import ConfigError
from captioner.sections import are_names, check_positive, read_section
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
        check_positive("tags.temperature", self.temperature)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TagConfig":
        """Create it from the result of `to_dict`.

        Raises:
            ConfigError: A key is unknown or missing, or a value out of range.
        """
        return read_section(cls, "tags", values)

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
    return table in TABLES if isinstance(table, str) else are_names(table)


@cache
def _table(table: str | tuple[str, ...]) -> TagTable:
    return TABLES[table]() if isinstance(table, str) else TagTable.of_classes(table)
