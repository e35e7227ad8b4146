"""What several processes that train together tell one another."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def shares(
    counts: Sequence[float], *, ranks: int, device: torch.device
) -> Sequence[float | Tensor]:
    """How many words, captions and the like this process has, relative to the mean over all processes.

    Args:
        counts: How many it has, of each kind, or what they weigh.
        ranks: How many processes there are.
        device: On which they meet.
    """
    if ranks == 1:
        return [1.0 for _ in counts]
    own = torch.tensor(counts, dtype=torch.float32).to(device, non_blocking=True)
    total = own.clone()
    torch.distributed.all_reduce(total)
    return list(own * ranks / total)


def gather_captions(own: Mapping[int, str], *, ranks: int) -> dict[int, str]:
    """The captions of all processes by their record's index, in order.

    Args:
        own: Those of this process.
        ranks: How many processes there are.
    """
    parts: list[Mapping[int, str]] = [own] * ranks
    if ranks > 1:
        torch.distributed.all_gather_object(parts, own)
    return dict(sorted((index, text) for part in parts for index, text in part.items()))
