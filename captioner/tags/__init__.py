"""What the encoder recognises: its classifier's scores -> everyday nouns with probabilities."""

from captioner.tags.config import TagConfig
from captioner.tags.table import TagTable
from captioner.tags.tagger import Tag, Tagger

__all__ = ["Tag", "TagConfig", "TagTable", "Tagger"]
