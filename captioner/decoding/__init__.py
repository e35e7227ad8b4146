"""From a model's next-word probabilities to captions: greedy, beam search and sampling, on numpy alone."""

from captioner.decoding.constraints import Constraints
from captioner.decoding.options import DecodingOptions
from captioner.decoding.search import Hypothesis, Step, Stepper, search

__all__ = ["Constraints", "DecodingOptions", "Hypothesis", "Step", "Stepper", "search"]
