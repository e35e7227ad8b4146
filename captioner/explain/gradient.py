"""Gradients of each word's log-probability with respect to the pixels. Requires torch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.backends.torch import TorchBackend, evaluating
from captioner.model.captioning import CaptioningModel
from captioner.vocabulary import START

Float32Array = NDArray[np.float32]

_CELLS = 28  # per side of the map; single pixels are too noisy
_COPIES = 8
_NOISE = 0.15  # standard deviation relative to the image's range of values


def smooth_gradient(
    backend: TorchBackend,
    pixels: Float32Array,
    words: Sequence[int],
    *,
    batch_size: int = 32,
    start: int = START,
    copies: int = _COPIES,
) -> Float32Array:
    """Map each word of a caption by its gradient, averaged over noisy copies (SmoothGrad).

    Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise": the gradient of a network
    with ReLUs is discontinuous, its average over the neighbourhood of an image is smooth. The noise
    is the same in every call.

    Args:
        backend: The backend that runs the network.
        pixels: (3, S, S), preprocessed.
        words: The caption's T word ids, without `START`.
        batch_size: The largest batch of images to encode.
        start: The caption's start token.
        copies: The number of noisy copies to average.

    Returns:
        (T, h, w), at least 0: the norm of the gradient over a pixel's colours, averaged per cell.
    """
    random = np.random.default_rng(0)
    scale = _NOISE * float(pixels.max() - pixels.min())
    total: Tensor | float = 0.0
    for _ in range(copies):
        noisy = pixels + scale * random.standard_normal(pixels.shape, np.float32)
        total = total + word_gradients(backend, noisy, words, batch_size=batch_size, start=start)
    assert isinstance(total, Tensor)
    lengths = (total / copies).norm(dim=1)  # (T, S, S)
    cells = min(_CELLS, lengths.shape[-1])
    return torch.nn.functional.adaptive_avg_pool2d(lengths, cells).cpu().numpy()


def word_gradients(
    backend: TorchBackend,
    pixels: Float32Array,
    words: Sequence[int],
    *,
    batch_size: int = 32,
    start: int = START,
) -> Tensor:
    """Compute the gradient of each word's log-probability with respect to preprocessed pixels.

    Args:
        backend: The backend that runs the network.
        pixels: (3, S, S), preprocessed.
        words: The caption's T word ids, without `START`.
        batch_size: The largest batch of images to encode.
        start: The caption's start token.

    Returns:
        (T, 3, S, S).
    """
    image = torch.from_numpy(pixels).to(backend.device)
    caption = torch.tensor([start, *words], device=backend.device)
    chosen = torch.arange(len(words), device=backend.device)
    with torch.enable_grad(), evaluating(backend.model):
        parts = [
            _gradients_of(backend.model, image, caption, chosen[start : start + batch_size])
            for start in range(0, len(words), batch_size)
        ]
    return torch.cat(parts) if parts else image.new_zeros((0, *image.shape))


def _gradients_of(model: CaptioningModel, image: Tensor, caption: Tensor, chosen: Tensor) -> Tensor:
    """Return gradients (N, 3, S, S) of N words, in one backward pass over N copies of the image."""
    copies = image.expand(len(chosen), -1, -1, -1).clone().requires_grad_()  # (N, 3, S, S)
    logits = model(
        copies, caption.expand(len(chosen), 1, -1)
    ).logits  # (T * N, V), ordered by step, image
    log_probs = logits.view(len(caption) - 1, len(chosen), -1).log_softmax(dim=2)  # (T, N, V)
    own = log_probs[
        chosen, torch.arange(len(chosen), device=chosen.device), caption[chosen + 1]
    ]  # (N,)
    (gradients,) = torch.autograd.grad(own.sum(), copies)
    return gradients
