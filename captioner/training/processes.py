"""Communication between the processes of distributed training."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def shares(
    counts: Sequence[float], *, ranks: int, device: torch.device
) -> Sequence[float | Tensor]:
    """Divide the counts of this process by their means over all processes.

    Args:
        counts: Numbers, or total weights, of words, captions and the like in this process.
        ranks: The number of processes.
        device: The device of the all-reduce.

    Returns:
        One factor for each count; 0 where no process has any.
    """
    if ranks == 1:
        return [1.0 for _ in counts]
    own = torch.tensor(counts, dtype=torch.float32).to(device, non_blocking=True)
    total = own.clone()
    torch.distributed.all_reduce(total)
    return list(torch.where(total == 0, total, own * ranks / total))


def gather(own: Mapping[int, T], *, ranks: int) -> dict[int, T]:
    """Gather what all processes found of their records by their index, in order.

    Args:
        own: Of this process.
        ranks: The number of processes.
    """
    parts: list[Mapping[int, T]] = [own] * ranks
    if ranks > 1:
        torch.distributed.all_gather_object(parts, own)
    return dict(
        sorted(
            ((index, found) for part in parts for index, found in part.items()),
            key=lambda pair: pair[0],
        )
    )
