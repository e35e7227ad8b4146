"""Self-critical sequence training (Rennie et al. 2017): sampled captions and their rewards."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.backends.torch import evaluating
from captioner.data.dataset import Batch
from captioner.errors import ConfigError
from captioner.evaluation.cider import CiderD
from captioner.model.decoder import Decoder
from captioner.vocabulary import END, NEVER, PAD, START, Vocabulary

# ends references and captions alike: a caption that stops too early or never lacks its n-grams
_END_TOKEN = "</s>"


@dataclass(frozen=True)
class SelfCriticalConfig:
    """Whether and how sampled captions are trained with their CIDEr-D as reward.

    Args:
        weight: Share of the loss that comes from sampled captions; the rest is cross-entropy. 0
            turns it off.
        samples: Captions sampled for each image. The baseline of each one's reward is the mean of
            the others (Luo 2020).
        max_length: Maximum number of words of a sampled caption; a longer one is cut, and gets no
            reward for its end.
    """

    weight: float = 0.0
    samples: int = 5
    max_length: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.samples < 2 or self.max_length < 1:
            raise ConfigError(
                f"model.self_critical has weight {self.weight}, samples {self.samples} and"
                f" max_length {self.max_length}; expected a weight from 0 to 1, 2 or more samples"
                " and 1 or more words."
            )


class Critic:
    """Computes the rewards of sampled captions, CIDEr-D with the training split's frequencies.

    The end of a caption counts as a word, in references too: otherwise the model would learn to end
    captions with "a" or "with".

    Args:
        references: The tokens of each record's captions.
        vocabulary: The vocabulary.
        endings: Words that a caption should not end with; they are counted, not penalised.

    Attributes:
        never: Ids of words that are never sampled.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Sequence[str]]],
        vocabulary: Vocabulary,
        endings: Sequence[str] = (),
    ) -> None:
        ended = {
            i: [[*tokens, _END_TOKEN] for tokens in texts] for i, texts in enumerate(references)
        }
        self._cider_d = CiderD(ended)
        self._vocabulary = vocabulary
        self.never = vocabulary.never
        self._endings = frozenset(endings)
        self._used: Counter[str] = Counter()

    def judge(self, records: Tensor, captions: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Compare the reward of each caption with the others of its image.

        Args:
            records: (B,), the records' indices.
            captions: (B, K, T) ids, START first, padded.

        Returns:
            The advantages (B, K), each caption's reward minus the mean of its image's other
            captions; and for the log: the mean reward, the number of different words used since
            `forget`, and the share of captions that end on one of the endings or not at all.
        """
        b, k, _ = captions.shape
        ids, texts, bad = [], [], 0
        for record, rows in zip(records.tolist(), captions.tolist(), strict=True):
            for row in rows:
                words = self._vocabulary.decode(row)  # without START, END and padding
                self._used.update(words)
                ended = END in row
                bad += not ended or not words or words[-1] in self._endings
                ids.append(record)
                texts.append([*words, _END_TOKEN] if ended else words)
        rewards = torch.from_numpy(self._cider_d.score_each(ids, texts)).float().view(b, k)
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / (k - 1)
        figures = {
            "reward": float(rewards.mean()),
            "words_used": len(self._used),
            "bad_endings": bad / (b * k),
        }
        return rewards - others, figures

    def forget(self) -> None:
        """Reset the set of words used."""
        self._used.clear()


@torch.no_grad()
def draw_captions(
    decoder: Decoder,
    features: Tensor,
    samples: int,
    max_length: int,
    *,
    starts: Tensor | None = None,
    never: Sequence[int] = NEVER,
) -> Tensor:
    """Sample captions from the model's own distribution, without dropout.

    Args:
        decoder: The decoder; the captions depend on its device's random state.
        features: (B, L, D), the encoder's region features.
        samples: K, captions of each image.
        max_length: T - 2, the maximum number of words of a caption.
        starts: (B,), the start token of each image's captions; START if None.
        never: Ids of words that are never sampled.

    Returns:
        (B, K, T) ids on the CPU: the start token first, END last unless the maximum length is
        reached, padded.
    """
    with evaluating(decoder):
        image, state = decoder.prepare(features)
        state = {
            name: array.unsqueeze(1).expand(-1, samples, -1) for name, array in state.items()
        }  # (B, K, H)
        words = torch.full((len(features), samples), START, device=features.device)
        if starts is not None:
            words = starts.to(features.device).unsqueeze(1).expand_as(words)
        drawn = [words]
        ended = torch.zeros_like(words, dtype=torch.bool)
        for t in range(max_length + 1):
            logits, state, _ = decoder.step(image, state, words)
            logits[..., never] = -torch.inf
            words = logits.float().softmax(dim=2).flatten(0, 1).multinomial(1).view(words.shape)
            if t == max_length:  # only END fits
                words = torch.where(words == END, END, PAD)
            words = torch.where(ended, PAD, words)
            drawn.append(words)
            ended = ended | (words == END)
            if ended.all():  # this synchronises a GPU
                break
    return torch.stack(drawn, dim=2).cpu()


def merge_captions(captions: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merge given and sampled captions, in the order that is fastest for `Decoder.forward`.

    Args:
        captions: (B, K, T) ids, padded; may be empty.
        drawn: (B, J, U) ids of the sampled captions, padded.

    Returns:
        Ids (B, K + J, max(T, U)), each image's captions by decreasing length, images by their
        longest; the previous index of each image (B,); and the source of each caption (B, K + J):
        j for the j-th sampled one, -1 - k for the k-th given one, both counted from 0.
    """
    length = max(captions.shape[2], drawn.shape[2])
    padded = [
        torch.nn.functional.pad(ids, (0, length - ids.shape[2]), value=PAD)
        for ids in (captions, drawn)
    ]
    merged = torch.cat(padded, dim=1)  # (B, K + J, T)
    origin = torch.cat([-1 - torch.arange(captions.shape[1]), torch.arange(drawn.shape[1])]).expand(
        merged.shape[:2]
    )
    lengths = (merged != PAD).sum(dim=2)
    order = lengths.argsort(dim=1, descending=True, stable=True)  # (B, K + J)
    image_order = lengths.amax(dim=1).argsort(descending=True, stable=True)  # (B,)
    order = order[image_order]
    rows = image_order.unsqueeze(1)
    return merged[rows, order], image_order, origin[rows, order]


def with_drawn(
    batch: Batch, decoder: Decoder, critic: Critic, config: SelfCriticalConfig
) -> tuple[Batch, Tensor, dict[str, float]]:
    """Add sampled captions to a batch, in the style of each image's first caption.

    Args:
        batch: A batch whose inputs are region features.
        decoder: Samples the captions.
        critic: Computes their rewards.
        config: Their number and maximum length.

    Returns:
        The batch; the advantages (B, K) of its captions, NaN for those of the data; and the
        critic's figures.
    """
    drawn = draw_captions(
        decoder,
        batch.inputs,
        config.samples,
        config.max_length,
        starts=batch.captions[:, 0, 0],
        never=critic.never,
    )
    advantages, figures = critic.judge(batch.indices, drawn)
    captions, image_order, origin = merge_captions(batch.captions, drawn)
    worth = (
        advantages[image_order].gather(1, origin.clamp(min=0)).masked_fill(origin < 0, torch.nan)
    )
    own = batch.weights[image_order].gather(1, (-1 - origin).clamp(min=0))
    merged = batch._replace(
        inputs=batch.inputs[image_order.to(batch.inputs.device)],
        captions=captions,
        indices=batch.indices[image_order],
        weights=torch.where(origin < 0, own, 1.0),
    )
    return merged, worth, figures


def policy_gradient(
    logits: Tensor, targets: Tensor, advantages: Tensor, never: Sequence[int] = NEVER
) -> tuple[Tensor, Tensor]:
    """Compute the policy gradient loss of sampled words, mean over words (Williams 1992).

    Args:
        logits: (N, V), float32; those of words that are never sampled are ignored.
        targets: (N,), the sampled words.
        advantages: (N,), their captions' advantages, reward minus baseline.
        never: Ids of words that are never sampled.

    Returns:
        The loss; and for the log, the mean entropy of the words' distributions in nats.
    """
    log_probs = logits.index_fill(1, torch.tensor(never, device=logits.device), -1e4).log_softmax(
        dim=1
    )
    chosen = log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(dim=1).mean()
    return -(advantages * chosen).mean(), entropy
