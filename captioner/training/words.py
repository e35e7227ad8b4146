"""An auxiliary loss: which words the captions of an image have (Fang et al. 2015)."""

import torch
from torch import Tensor, nn

from captioner.vocabulary import PAD, UNKNOWN


class WordLoss(nn.Module):
    """Tells the words of an image's captions, all at once, from its mean region.

    Args:
        feature_size: D, the width of the region features.
        vocab_size: V.
    """

    def __init__(self, feature_size: int, vocab_size: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)
        self.odds = nn.Linear(feature_size, vocab_size)
        nn.init.constant_(self.odds.bias, -5.0)  # a word is rare

    def forward(self, features: Tensor, captions: Tensor) -> Tensor:
        """Binary cross-entropy with the share of an image's captions that have a word, per expected word.

        Args:
            features: (B, L, D), the encoder's region features.
            captions: (B, K, T) ids, padded; a row of nothing but padding is left out.
        """
        captions = captions.to(features.device)
        there = torch.zeros(*captions.shape[:2], self.odds.out_features, device=features.device)
        there.scatter_(2, captions, 1.0)
        there[:, :, : UNKNOWN + 1] = 0  # no words
        count = (captions != PAD).any(dim=2).sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
        expected = there.sum(dim=1) / count  # (B, V)
        odds = self.odds(self.dropout(features.mean(dim=1))).float()
        return nn.functional.binary_cross_entropy_with_logits(odds, expected, reduction="sum") / expected.sum()
