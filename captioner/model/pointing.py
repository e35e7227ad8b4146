"""A pointer from the decoder to the words of tags."""

import torch
from torch import Tensor, nn

from captioner.errors import ConfigError
from captioner.tags.words import ClassWords

_LEAST = 1e-5  # added to probabilities before their logarithm
_CLOSED = -2.0  # the gate's first bias: an eighth of the words come from tags


class Pointer(nn.Module):
    """Say the next word by pointing to a tag, or generate it (Li et al. 2019, LSTM-P).

    A gate g is computed from the decoder's readout and the last word. With 1 - g the word comes
    from the vocabulary's softmax, with g from a softmax over the T words that name classes of the
    encoder's classifier. Its logits are the product of a query with each word's embedding, plus the
    weighted logarithm of the probability that the photo shows what the word names. So the decoder
    can say a noun that it has rarely or never seen in captions ("Pointing Novel Objects in Image
    Captioning").

    The classifier's probabilities are used without the temperature of tags, so calibrating tags
    doesn't change captions.

    Args:
        readout_size: R, the width of the decoder's readout.
        embedding_size: E, the width of the word embedding.
    """

    class_index: Tensor
    place_index: Tensor
    words: Tensor

    def __init__(self, readout_size: int, embedding_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(readout_size + embedding_size, embedding_size)
        self.gate = nn.Linear(readout_size + embedding_size, 1)
        self.trust = nn.Parameter(torch.ones(1))
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, _CLOSED)
        for name in ("class_index", "place_index", "words"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64), persistent=False)
        self._classifier: tuple[nn.Linear, ...] = ()  # in a tuple, as it belongs to the model

    def aim(self, classifier: nn.Linear, named: ClassWords) -> None:
        """Tell which words name which classes.

        Args:
            classifier: Computes class logits from the mean of an image's region features.
            named: The words.

        Raises:
            ConfigError: There are no such words.
        """
        if not len(named.words):
            raise ConfigError(
                "decoder.pointer is true, but no word of the vocabulary names a class of the"
                " encoder's classifier, so there is nothing to point to."
            )
        device = self.query.weight.device
        self._classifier = (classifier,)
        self.class_index = torch.from_numpy(named.classes).to(device)
        self.place_index = torch.from_numpy(named.places).to(device)
        self.words = torch.from_numpy(named.words).to(device)

    def tags(self, features: Tensor) -> Tensor:
        """Compute the log-probability that an image shows what each word names.

        Args:
            features: (B, L, D), the encoder's region features.

        Returns:
            (B, T). A class counts for its noun and for more general ones, so the probabilities
            don't sum up to 1.
        """
        (classifier,) = self._classifier
        pooled = features.mean(dim=1).to(classifier.weight.dtype)
        classes = _precise(classifier(pooled)).softmax(dim=1)  # (B, C)
        shown = classes.new_zeros(len(classes), len(self.words)).scatter_add(
            1, self.place_index.expand(len(classes), -1), classes[:, self.class_index]
        )
        return (shown + _LEAST).log()

    def forward(
        self, logits: Tensor, readout: Tensor, embedded: Tensor, tags: Tensor, embedding: Tensor
    ) -> Tensor:
        """Join what is generated and what is pointed to.

        Args:
            logits: (..., V), of the vocabulary.
            readout: (..., R), the decoder's readout.
            embedded: (..., E), the embedded last word.
            tags: (..., T), of `tags`.
            embedding: (V, E), the word embedding.

        Returns:
            Log-probabilities (..., V), in float32 at least.
        """
        state = torch.cat([readout, embedded], dim=-1)
        gate = _precise(self.gate(state))  # (..., 1)
        scores = self.query(state) @ nn.functional.embedding(self.words, embedding).t()  # (..., T)
        pointed = (_precise(scores) + self.trust * tags).log_softmax(dim=-1)
        generated = nn.functional.logsigmoid(-gate) + _precise(logits).log_softmax(dim=-1)
        joint = torch.logaddexp(
            generated.index_select(-1, self.words), nn.functional.logsigmoid(gate) + pointed
        )
        return generated.scatter(-1, self.words.expand_as(joint), joint)


def _precise(tensor: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
