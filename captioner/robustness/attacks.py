"""Adversarial photos: imperceptible changes that change the caption. This module requires torch.

An attack increases a loss of the pixels under an L-infinity constraint: no pixel value changes by
more than epsilon. Values are in 0..1, before normalization.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from captioner.backends.torch import TorchBackend, evaluating
from captioner.errors import ConfigError
from captioner.inference import Captioner
from captioner.tokenizer import tokenize
from captioner.vocabulary import END, PAD

Loss: TypeAlias = Callable[[Tensor], Tensor]  # (B, 3, S, S) -> (B,), one value per photo

_STEP = 2.5  # times epsilon, over all steps (Madry et al. 2018)


def fgsm(loss: Loss, pixels: Tensor, epsilon: float | Tensor) -> Tensor:
    """Change each value by epsilon in the direction that increases the loss.

    Source: Goodfellow et al. 2015, the fast gradient sign method.

    Args:
        loss: The loss to increase.
        pixels: (B, 3, S, S) in 0..1.
        epsilon: The maximum change of a value; a tensor (B, 1, 1, 1) has one per photo.

    Returns:
        The changed pixels (B, 3, S, S) in 0..1.
    """
    return (pixels + epsilon * _gradient(loss, pixels).sign()).clamp(0, 1)


def pgd(
    loss: Loss,
    pixels: Tensor,
    epsilon: float | Tensor,
    *,
    steps: int = 10,
    step_size: float | None = None,
    seed: int | None = 0,
) -> Tensor:
    """Increase the loss by projected gradient descent (Madry et al. 2018).

    Args:
        loss: The loss to increase.
        pixels: (B, 3, S, S) in 0..1.
        epsilon: The maximum change of a value; a tensor (B, 1, 1, 1) has one per photo.
        steps: The number of steps.
        step_size: The change per step; None for 2.5 epsilon over all steps together.
        seed: The seed of the random start; None starts at the photo itself.

    Returns:
        The changed pixels (B, 3, S, S) in 0..1.
    """
    size = _STEP * epsilon / steps if step_size is None else step_size
    found = pixels
    if seed is not None:
        random = torch.Generator().manual_seed(seed)
        noise = 2 * torch.rand(pixels.shape, generator=random).to(pixels) - 1
        found = (pixels + epsilon * noise).clamp(0, 1)
    for _ in range(steps):
        moved = found + size * _gradient(loss, found).sign()
        found = torch.clamp(moved, pixels - epsilon, pixels + epsilon).clamp(0, 1)
    return found


def caption_loss(captioner: Captioner, captions: Sequence[Sequence[int]]) -> Loss:
    """Create the loss of captions, which an attack increases to make them improbable.

    Args:
        captioner: A captioner on the torch backend.
        captions: The word ids of each photo's caption, without `START` and `END`.

    Returns:
        The negative log-probability of each photo's caption, including `END`. A targeted attack
        increases its negative, to make the model generate exactly these captions.

    Raises:
        ConfigError: The captioner runs on another backend.
    """
    backend, preprocessing = captioner.backend, captioner.preprocessing
    if not isinstance(backend, TorchBackend):
        raise ConfigError(
            "Attacks require gradients; load the model with"
            " Captioner.from_pretrained(folder, backend='torch')."
        )
    start = captioner.vocabulary.start(captioner.decoding.style)
    longest = max(map(len, captions)) + 2
    rows = [[start, *words, END] for words in captions]
    padded = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])  # (B, T)
    mean, std = (
        torch.tensor(values, device=backend.device).view(3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )

    def loss(pixels: Tensor) -> Tensor:
        with evaluating(backend.model):
            out = backend.model((pixels - mean) / std, padded.unsqueeze(1))
        each = torch.nn.functional.cross_entropy(out.logits, out.targets, reduction="none")  # (N,)
        return torch.zeros(len(pixels), device=each.device).index_add(0, out.rows, each)

    return loss


def ids_of(captioner: Captioner, text: str) -> list[int]:
    """Return the word ids of a sentence that a model should generate.

    Raises:
        ConfigError: The sentence is empty, or a word is not in the vocabulary.
    """
    words = tokenize(text)
    missing = [word for word in words if word not in captioner.vocabulary]
    if missing or not words:
        what = f"The model lacks the words {', '.join(missing)}" if missing else "It is empty"
        raise ConfigError(f"{text!r} is not a possible caption. {what}; use the model's words.")
    return [captioner.vocabulary.index(word) for word in words]


def _gradient(loss: Loss, pixels: Tensor) -> Tensor:
    """Return the gradient of each photo's loss with respect to its pixels."""
    with torch.enable_grad():
        at = pixels.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(at).sum(), at)
    return gradient
