"""Which clip, or which part of one, is meant; `captioner.video.parts` reads its frames."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

ClipSource: TypeAlias = str | os.PathLike[str] | bytes


@dataclass(frozen=True)
class ClipPart:
    """A clip, or a part of one.

    Attributes:
        path: The file, or its bytes.
        start: Where the part begins, in seconds; None for the beginning of the clip.
        end: Where it ends, in seconds; None for the end of the clip.
    """

    path: ClipSource
    start: float | None = None
    end: float | None = None


def evenly(frames: Sequence[Any], count: int) -> list[Any]:
    """Choose `count` evenly spaced frames, as `captioner.video.parts.read_frames` does.

    Of fewer frames than that, some are chosen twice.
    """
    return [frames[(2 * i + 1) * len(frames) // (2 * count)] for i in range(count)]
