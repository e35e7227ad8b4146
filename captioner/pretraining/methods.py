"""Pretraining tasks: classification, or without labels rotation prediction or SimSiam."""

from typing import Literal

import torch
from torch import Tensor

Method = Literal["supervised", "rotation", "simsiam"]

TURNS = 4


def turned(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images in all four rotations, and the rotation of each (Gidaris et al. 2018).

    Args:
        images: (B, 3, S, S).

    Returns:
        (4 B, 3, S, S), and (4 B,) the number of counterclockwise quarter turns: 0 to 3.
    """
    turns = [torch.rot90(images, turn, dims=(2, 3)) for turn in range(TURNS)]
    labels = torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
    return torch.cat(turns), labels
