"""Tags: everyday nouns with probabilities, from the logits of the encoder's classifier."""

from captioner.tags.config import TagConfig
from captioner.tags.table import TagTable
from captioner.tags.tagger import Tag, Tagger

__all__ = ["Tag", "TagConfig", "TagTable", "Tagger"]
