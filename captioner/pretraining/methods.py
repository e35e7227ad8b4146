"""What an encoder is taught: classes, or without labels turns or what two views share."""

from typing import Literal

import torch
from torch import Tensor

Method = Literal["supervised", "rotation", "simsiam"]

TURNS = 4


def turned(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images in all four quarter turns, and which turn it was (Gidaris et al. 2018).

    Args:
        images: (B, 3, S, S).

    Returns:
        (4 B, 3, S, S), and (4 B,) how many quarter turns counter-clockwise: 0 to 3.
    """
    turns = [torch.rot90(images, turn, dims=(2, 3)) for turn in range(TURNS)]
    labels = torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
    return torch.cat(turns), labels
