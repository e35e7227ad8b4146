"""Communication between the processes of distributed training."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def shares(
    counts: Sequence[float], *, ranks: int, device: torch.device
) -> Sequence[float | Tensor]:
    """Divide the counts of this process by their means over all processes.

    Args:
        counts: Numbers, or total weights, of words, captions and the like in this process.
        ranks: The number of processes.
        device: The device of the all-reduce.
    """
    if ranks == 1:
        return [1.0 for _ in counts]
    own = torch.tensor(counts, dtype=torch.float32).to(device, non_blocking=True)
    total = own.clone()
    torch.distributed.all_reduce(total)
    return list(own * ranks / total)


def gather_captions(own: Mapping[int, str], *, ranks: int) -> dict[int, str]:
    """Gather the captions of all processes by their record's index, in order.

    Args:
        own: The captions of this process.
        ranks: The number of processes.
    """
    parts: list[Mapping[int, str]] = [own] * ranks
    if ranks > 1:
        torch.distributed.all_gather_object(parts, own)
    return dict(sorted((index, text) for part in parts for index, text in part.items()))
