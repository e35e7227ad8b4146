"""A block: a piece of a corpus that one worker captions in one go."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["images", "shard", "table"]


@dataclass(frozen=True)
class Block:
    """A piece of a corpus.

    Attributes:
        kind: "images", files of one image each; "shard", a tar file; "table", a Parquet file.
        paths: The images, or the one file: absolute paths and URLs.
        first: The number of its first image in the corpus, for sampling. Where nobody knows how
            many images come before, numbers are left free.
        images: How many images it has; None for a shard, which says so only when it is read.
        groups: Which row groups of a table; none for a table that cannot be read.
    """

    kind: Kind
    paths: tuple[str, ...]
    first: int = 0
    images: int | None = None
    groups: tuple[int, ...] = ()

    def to_line(self) -> str:
        """Write it as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Block":
        """Read what `to_line` wrote."""
        values = json.loads(line)
        return cls(**values | {name: tuple(values[name]) for name in ("paths", "groups")})


@dataclass(frozen=True)
class Finished:
    """What is known of a block that is captioned.

    Attributes:
        images: How many rows its part has.
        failed: How many of them are images that cannot be read.
        seconds: How long its worker took.
        damage: What is wrong with its file, whose whole part was captioned; None if nothing is.
    """

    images: int
    failed: int
    seconds: float
    damage: str | None = None
