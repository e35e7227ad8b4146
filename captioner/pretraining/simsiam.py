"""SimSiam: learn without labels to match two views of a photo (Chen and He 2021).

Source: X. Chen and K. He, "Exploring Simple Siamese Representation Learning", CVPR 2021.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

WIDTH = 512  # of the projections; the paper's 2,048 suit larger encoders and batches


class SimSiam(nn.Module):
    """The layers after the network: the rest of the projector, and the predictor.

    The network's own last layer is the projector's first.

    Args:
        width: D, the size of the network's outputs and of the projections.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(width, width // 4, bias=False),
            nn.BatchNorm1d(width // 4),
            nn.ReLU(),
            nn.Linear(width // 4, width),
        )

    def forward(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Project and predict.

        Args:
            outputs: (N, D) the network's outputs.

        Returns:
            The projections (N, D), and the predictions from them of the other view's projections
            (N, D).
        """
        projections = self.projector(outputs)
        return projections, self.predictor(projections)


def join_views(images: Tensor) -> Tensor:
    """Put both views of B images into one batch: (B, 2, 3, S, S) -> (2 B, 3, S, S)."""
    return images.transpose(0, 1).flatten(0, 1)


def simsiam_loss(projections: Tensor, predictions: Tensor) -> Tensor:
    """Compute the negative cosine between each prediction and the other view's projection.

    The gradient is stopped at the target projections; otherwise all outputs would collapse to the
    same value.

    Args:
        projections: (2 B, D), of the first views, then of the second ones.
        predictions: (2 B, D), likewise.

    Returns:
        The mean over both views of all images, from -1 to 1.
    """
    targets = projections.detach().roll(len(projections) // 2, 0)
    return -cosine_similarity(predictions, targets).mean()


def find_partners(projections: Tensor) -> Tensor:
    """Determine for each view whether its nearest neighbour is the same image's other view.

    Args:
        projections: (2 B, D), of the first views, then of the second ones.

    Returns:
        (2 B,) bool.
    """
    directions = normalize(projections)
    cosines = (directions @ directions.T).fill_diagonal_(-2)
    rows = torch.arange(len(projections), device=projections.device)
    return cosines.argmax(1) == rows.roll(len(projections) // 2)


def spread(projections: Tensor) -> Tensor:
    """Measure the variation of projections: the std of the normalized ones, times sqrt(D).

    It is near 1 if directions are spread evenly, and 0 if all outputs are the same, that is, if
    SimSiam has collapsed.

    Args:
        projections: (N, D).
    """
    each = normalize(projections).std(0, correction=0)  # (D,)
    return each.mean() * math.sqrt(len(each))
