"""Additive soft attention over image regions."""

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Additive attention (Bahdanau et al. 2015) as in Show, Attend and Tell.

    This is the soft attention of Xu et al. 2015, eq. 4-6.

    The keys don't depend on the query, so they are projected once per image, and several queries of
    one image (its captions in training, its beams in search) share them without a copy.

    Args:
        value_size: C, the width of the region vectors.
        query_size: H, the width of the query.
        size: A, the width in which they are compared.
    """

    def __init__(self, value_size: int, query_size: int, size: int) -> None:
        super().__init__()
        self.key = nn.Linear(value_size, size)
        self.query = nn.Linear(query_size, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the regions.

        Args:
            query: (B, K, H), the hidden states of K rows per image.
            keys: (B, L, A), `self.key(values)`.
            values: (B, L, C), the region vectors.

        Returns:
            The context (B, K, C), and the weights (B, K, L) that add up to one.
        """
        return self.attend(self.query(query), keys, values)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the regions with queries that are already projected, (B, K, A)."""
        compared = torch.tanh(keys.unsqueeze(1) + query.unsqueeze(2))  # (B, K, L, A)
        weights = self.score(compared).squeeze(3).softmax(dim=2)  # (B, K, L)
        return weights @ values, weights
