"""Decode captions from next-word probabilities: greedy, beam search, sampling. Numpy only.

The names are loaded when they are first used: the help of the commands needs only the options and
shouldn't wait for numpy. The search itself is `captioner.decoding.search.search`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captioner.decoding.constraints import Constraints
    from captioner.decoding.options import DecodingOptions
    from captioner.decoding.search import Hypothesis, Step, Stepper

__all__ = ["Constraints", "DecodingOptions", "Hypothesis", "Step", "Stepper"]

_MODULES = {"Constraints": "constraints", "DecodingOptions": "options"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'search')}"), name)
