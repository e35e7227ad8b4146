"""What the encoder recognises: its classifier's scores -> everyday nouns with probabilities."""

from captioner.tags.table import TagTable
from captioner.tags.tagger import Tag, Tagger

__all__ = ["Tag", "TagTable", "Tagger"]
