"""The beams of a step of the search, and what they share."""

from typing import NamedTuple

from torch import Tensor, nn


class Beams(NamedTuple):
    """The beams of a step, B images with K each: the distinct rows and words that they continue."""

    rows: Tensor  # (P,) the distinct rows of the last step
    row_of: Tensor  # (B, K) each beam's index in `rows`
    first: Tensor  # (P,) the first beam of each of `rows`, counted over the (B, K) grid
    words: Tensor  # (W,) the distinct last words
    word_of: Tensor  # (B, K) each beam's index in `words`


def spread(rows: Tensor, index: Tensor) -> Tensor:
    """Return `rows[index]`, in the form that is a single operation in ONNX."""
    if rows.dim() == 1:
        return rows[index]
    return nn.functional.embedding(index, rows)
