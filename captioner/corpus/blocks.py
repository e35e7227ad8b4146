"""A block: the part of a corpus that is one worker's unit of work."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["images", "shard", "table"]


@dataclass(frozen=True)
class Block:
    """A part of a corpus.

    Attributes:
        kind: "images", files of one image each; "shard", a tar file; "table", a Parquet file.
        paths: The images, or the one file: absolute paths and URLs.
        first: The index of its first image in the corpus, for sampling. Where the number of
            preceding images is unknown, a range of indices is reserved for them.
        images: The number of its images; None for a file where it is unknown until it is read.
        groups: The indices of a table's row groups; empty, for all of them, if the table could not
            be read when the plan was made.
    """

    kind: Kind
    paths: tuple[str, ...]
    first: int = 0
    images: int | None = None
    groups: tuple[int, ...] = ()

    def to_line(self) -> str:
        """Serialize the block as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Block":
        """Parse a line from `to_line`."""
        values = json.loads(line)
        return cls(**values | {name: tuple(values[name]) for name in ("paths", "groups")})


@dataclass(frozen=True)
class Finished:
    """The result of a captioned block.

    Attributes:
        images: The number of rows in its part.
        failed: The number of rows for images that cannot be read.
        seconds: The time that its worker took.
        damage: Why only a part of its file could be captioned; None if all of it was.
    """

    images: int
    failed: int
    seconds: float
    damage: str | None = None
