"""Captions as the user gets them."""

import numpy as np
import pytest

from captioner.caption import Caption
from captioner.decoding import Hypothesis
from captioner.vocabulary import SPECIAL_WORDS, Vocabulary

VOCABULARY = Vocabulary([*SPECIAL_WORDS, "a", "dog"])


@pytest.mark.parametrize(
    ("frames", "regions", "shape"),
    [(0, 9, (3, 3)), (4, 4, (4,)), (4, 36, (4, 3, 3))],  # a photo, frames, regions of frames
)
@pytest.mark.parametrize("words", [(), (4, 5)])
def test_attention_has_the_shape_of_what_the_model_saw(
    words: tuple[int, ...], frames: int, regions: int, shape: tuple[int, ...]
) -> None:
    """Also that of a caption without words."""
    weights = np.arange(len(words) * regions, dtype=np.float32).reshape(len(words), regions)
    hypothesis = Hypothesis(words, -1.0, (-0.5,) * len(words), -1.0, weights, True)
    attention = Caption.of(hypothesis, VOCABULARY, (), frames=frames).attention
    assert attention is not None and attention.shape == (len(words), *shape)
    np.testing.assert_array_equal(attention.ravel(), weights.ravel())
