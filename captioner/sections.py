"""Read sections of a checkpoint's config.json: their keys, and values that several have."""

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from captioner.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def read_section(kind: type[Config], name: str, values: Mapping[str, Any]) -> Config:
    """Create a config from a section of JSON.

    Args:
        kind: A dataclass that checks its values.
        name: The section's name, for errors.
        values: A value for each of its fields; lists become tuples.

    Raises:
        ConfigError: It is not an object, a key is unknown or missing, or a value out of range.
    """
    expected = {field.name for field in fields(kind)}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} is {values!r}; expected an object with {sorted(expected)}.")
    if set(values) != expected:
        raise ConfigError(f"{name} has the keys {sorted(values)}; expected {sorted(expected)}.")
    return kind(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )


def are_names(value: object) -> bool:
    """Return whether a value is a tuple of one or more different names, none of them empty."""
    names = value if isinstance(value, tuple) else ()
    whole = all(isinstance(name, str) and name.strip() for name in names)
    return bool(names) and whole and len(set(names)) == len(names)


def is_number(value: object) -> bool:
    """Return whether a value is a number that is finite as a float, which JSON's may exceed."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )


def is_count(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number of 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_positive(name: str, value: object) -> None:
    """Check that a value is a positive, finite number.

    Raises:
        ConfigError: It is not.
    """
    if not is_number(value) or not value > 0:  # type: ignore[operator]
        raise ConfigError(f"{name} is {value!r}; expected a positive number.")
