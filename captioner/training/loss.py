"""The loss of a batch: cross-entropy, and what is asked for beside it."""

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
        weights: (N,), what each word counts.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor

    def mean(self, losses: Tensor) -> Tensor:
        """The weighted mean of the words' losses (N,)."""
        return (losses * self.weights).sum() / self.weights.sum()


@dataclass(frozen=True)
class CaptionLoss:
    """What a batch's loss is made of.

    Args:
        label_smoothing: Share of the probability that is spread over all words.
        coverage_penalty: Weight of the doubly stochastic penalty.
        drawn_weight: Share of the loss that comes from captions that the model has drawn.
        taught_weight: Share of the loss that comes from teachers' probabilities.
        never: Ids of words that are never drawn.
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
        """The loss, a mean over words by their captions' weights, and the parts of it that a log shows.

        Args:
            output: The decoder's, teacher-forced on `captions`.
            captions: (B, K, T) ids, padded.
            weights: (B, K), what each caption counts; 0 where there is none. On the CPU, as the
                captions may be.
            shares: Weighs the means of this process, so that with several processes the average of
                their gradients is the gradient of one process with the whole batch.
            advantages: (B, K), of captions that were drawn, which are trained by their reward; NaN
                for the data's own. None: no caption was drawn.
            taught: (N, V), the words' probabilities by the teachers. None: there are no teachers.
        """
        lengths = (captions[:, :, 1:] != PAD).sum(dim=2)  # (B, K)
        drawn_ones = (
            torch.zeros_like(weights, dtype=torch.bool)
            if advantages is None
            else ~advantages.isnan()
        )
        # Counted where captions are, so that nothing waits for a GPU.
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


def _divide(
    output: TeacherForced, weights: Tensor, advantages: Tensor | None
) -> tuple[Words, Words, Tensor | None]:
    """The words of given captions, those of drawn ones, and what the latter are worth (N,); None if none is drawn."""
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
