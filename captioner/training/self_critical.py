"""Self-critical sequence training (Rennie et al. 2017): captions that the model draws, and what they are worth."""

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

# of references and captions alike: a caption that stops too early or never lacks its n-grams
_END_TOKEN = "</s>"


@dataclass(frozen=True)
class SelfCriticalConfig:
    """Whether and how captions that the model draws are trained by their CIDEr-D.

    Args:
        weight: Share of the loss that comes from drawn captions; the rest is cross-entropy. 0 turns
            it off.
        samples: Captions drawn of each image. The reward of each is compared with the mean of the
            others (Luo 2020).
        max_length: The most words of a drawn caption; one that has not ended by then goes without
            its end's reward.
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
    """Judges drawn captions by CIDEr-D with the training split's document frequencies.

    The end of a caption counts as a word, in references too: else the search for reward ends
        captions in "a" or "with".

    Args:
        references: The tokens of each record's captions.
        vocabulary: The words.
        endings: Words a caption should not end with; they are counted, not punished.

    Attributes:
        never: Ids of words that are never drawn.
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
        """Compare each caption of an image with the others of it.

        Args:
            records: (B,), which records the images are.
            captions: (B, K, T) ids, START first, padded.

        Returns:
            By how much each caption's reward exceeds the mean of the other captions of its image,
            (B, K); and for the
            log: the mean reward, the number of different words used since `forget`, the share of
            captions that have ended badly, on one of the endings or not at all.
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
        """Count the words used anew."""
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
    """Draw captions from the model's own distribution, without dropout.

    Args:
        decoder: The decoder; on its device's random state the captions depend.
        features: (B, L, D), the encoder's region features.
        samples: K, captions of each image.
        max_length: T - 2, the most words of a caption.
        starts: (B,), the start token of each image's captions; START if None.
        never: Ids of words that are never drawn.

    Returns:
        (B, K, T) ids on the CPU: the start token first, END last unless the length is used up,
        padded.
    """
    with evaluating(decoder):
        image, state = decoder.start(features)
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
            if t == max_length:  # nothing but an end fits
                words = torch.where(words == END, END, PAD)
            words = torch.where(ended, PAD, words)
            drawn.append(words)
            ended = ended | (words == END)
            if ended.all():  # on a GPU this waits for it
                break
    return torch.stack(drawn, dim=2).cpu()


def merge_captions(captions: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put given and drawn captions of images into one batch, in the order that `Decoder.forward` likes.

    Args:
        captions: (B, K, T) ids, padded; may be empty.
        drawn: (B, J, U) ids, padded.

    Returns:
        Ids (B, K + J, max(T, U)), each image's captions by falling length, images by their longest;
        for each image, which it was before (B,); and for each caption (B, K + J), that it was the
        j-th of the drawn ones, or -1 - k for the k-th of the given ones, both from 0 on.
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
    images = lengths.amax(dim=1).argsort(descending=True, stable=True)  # (B,)
    order = order[images]
    rows = images.unsqueeze(1)
    return merged[rows, order], images, origin[rows, order]


def with_drawn(
    batch: Batch, decoder: Decoder, critic: Critic, config: SelfCriticalConfig
) -> tuple[Batch, Tensor, dict[str, float]]:
    """Put captions that the model draws beside a batch's own, in the style of the first of each image's own.

    Args:
        batch: Its images are region features.
        decoder: Draws them.
        critic: Judges them.
        config: How many, and how long.

    Returns:
        The batch; what each of its captions is worth beside the others that were drawn, (B, K), NaN
        for its own; and the critic's figures.
    """
    drawn = draw_captions(
        decoder,
        batch.images,
        config.samples,
        config.max_length,
        starts=batch.captions[:, 0, 0],
        never=critic.never,
    )
    advantages, figures = critic.judge(batch.indices, drawn)
    captions, images, origin = merge_captions(batch.captions, drawn)
    worth = advantages[images].gather(1, origin.clamp(min=0)).masked_fill(origin < 0, torch.nan)
    own = batch.weights[images].gather(1, (-1 - origin).clamp(min=0))
    merged = batch._replace(
        images=batch.images[images.to(batch.images.device)],
        captions=captions,
        indices=batch.indices[images],
        weights=torch.where(origin < 0, own, 1.0),
    )
    return merged, worth, figures


def policy_gradient(
    logits: Tensor, targets: Tensor, advantages: Tensor, never: Sequence[int] = NEVER
) -> tuple[Tensor, Tensor]:
    """The loss of drawn words, mean over words, whose gradient is that of the expected reward (Williams 1992).

    Args:
        logits: (N, V), float32; of words that are never drawn they don't count.
        targets: (N,), the words that were drawn.
        advantages: (N,), what their caption's reward exceeds its baseline by.
        never: Ids of words that are never drawn.

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
