"""The loss of a batch: cross-entropy and optional further terms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.model.decoder import TeacherForced
from captioner.training.distillation import soft_cross_entropy
from captioner.training.self_critical import policy_gradient
from captioner.vocabulary import NEVER, PAD

Shares = Callable[
    [Sequence[float]], Sequence[float | Tensor]
]  # see `captioner.training.processes.shares`


class Words(NamedTuple):
    """Some of a batch's words.

    Attributes:
        logits: (N, V), float32.
        targets: (N,), the words' ids.
        weights: (N,), the weight of each word.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor

    def mean(self, losses: Tensor) -> Tensor:
        """Compute the weighted mean of the words' losses (N,)."""
        return (losses * self.weights).sum() / self.weights.sum()


@dataclass(frozen=True)
class CaptionLoss:
    """The loss of a batch and the weights of its terms.

    Args:
        label_smoothing: Share of the probability that is spread over all words.
        coverage_penalty: Weight of the doubly stochastic penalty.
        drawn_weight: Share of the loss that comes from captions sampled from the model.
        taught_weight: Share of the loss that comes from teachers' probabilities.
        never: Ids of words that are never sampled.
    """

    label_smoothing: float = 0.0
    coverage_penalty: float = 0.0
    drawn_weight: float = 0.0
    taught_weight: float = 0.0
    never: tuple[int, ...] = NEVER

    def __call__(
        self,
        output: TeacherForced,
        captions: Tensor,
        weights: Tensor,
        shares: Shares,
        *,
        advantages: Tensor | None = None,
        taught: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, the mean over words weighted by caption.

        Args:
            output: The decoder's output, teacher-forced on `captions`.
            captions: (B, K, T) ids, padded.
            weights: (B, K), the weight of each caption; 0 where there is none. On the CPU, as the
                captions may be.
            shares: Weighs the means of this process, so that with several processes the average of
                their gradients is the gradient of one process with the whole batch.
            advantages: (B, K), the advantages of sampled captions, which are trained by their
                reward; NaN for captions of the data. None if no caption was sampled.
            taught: (N, V), the teachers' probabilities of the words. None without teachers.

        Returns:
            The loss, and its terms for the log.
        """
        lengths = (captions[:, :, 1:] != PAD).sum(dim=2)  # (B, K)
        drawn_ones = (
            torch.zeros_like(weights, dtype=torch.bool)
            if advantages is None
            else ~advantages.isnan()
        )
        # Counted on the captions' device, to avoid synchronising the GPU.
        counts = (
            float((lengths * weights)[~drawn_ones].sum()),
            float(lengths[drawn_ones].sum()),
            float(weights.sum()),
        )
        words_share, drawn_share, captions_share = shares(counts)
        given, drawn, worth = _divide(output, weights, advantages)

        losses = nn.functional.cross_entropy(
            given.logits, given.targets, label_smoothing=self.label_smoothing, reduction="none"
        )
        loss = given.mean(losses)
        figures = {"loss": loss.detach()}
        loss = loss * words_share
        if worth is not None:
            gain, figures["entropy"] = policy_gradient(
                drawn.logits, drawn.targets, worth, self.never
            )
            loss = (1 - self.drawn_weight) * loss + self.drawn_weight * gain * drawn_share
        if self.coverage_penalty and output.coverage is not None:
            penalties = (1 - output.coverage.float()).square().sum(dim=2)  # (B, K)
            penalty = (penalties * weights.to(penalties.device)).sum() / counts[2]
            figures["coverage_penalty"] = penalty.detach()
            loss = loss + self.coverage_penalty * penalty * captions_share
        if taught is not None:
            distance = given.mean(soft_cross_entropy(output, taught)) * words_share
            figures["taught"] = distance.detach()
            loss = (1 - self.taught_weight) * loss + self.taught_weight * distance
        return loss, figures


def event_loss(logits: Tensor, labels: Tensor, shares: Shares) -> tuple[Tensor, Tensor]:
    """Compute the binary cross-entropy of events, summed over labels and averaged over frames.

    Args:
        logits: (B, F, E).
        labels: (B, F, E), 1 where an event happens, else 0; below 0 for frames that nobody
            labelled, which don't count. On the CPU, as the captions may be.
        shares: As for `CaptionLoss`.

    Returns:
        The loss, and itself for the log.
    """
    known = labels[:, :, :1] >= 0  # (B, F, 1)
    count = float(known.sum())
    labels, known = (each.to(logits.device, non_blocking=True) for each in (labels, known))
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits.float(), labels.clamp(min=0), reduction="none"
    )
    (share,) = shares([count])
    loss = (losses * known).sum() / max(1.0, count)
    return loss * share, loss.detach()


def _divide(
    output: TeacherForced, weights: Tensor, advantages: Tensor | None
) -> tuple[Words, Words, Tensor | None]:
    """Split words into those of given and of sampled captions, with the latter's advantages (N,).

    Without sampled captions, the second part is empty and there are no advantages.
    """
    logits, own = (
        output.logits.float(),
        weights.to(output.logits.device).flatten()[output.rows],
    )  # (N,)
    words = Words(logits, output.targets, own)
    if advantages is None:
        return words, Words(*(part[:0] for part in words)), None
    worth = advantages.to(logits.device).flatten()[output.rows]  # (N,)
    drawn = ~worth.isnan()
    return (
        Words(*(part[~drawn] for part in words)),
        Words(*(part[drawn] for part in words)),
        worth[drawn],
    )
