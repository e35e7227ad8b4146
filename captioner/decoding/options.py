"""What a user may ask of the search."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captioner.errors import ConfigError


@dataclass(frozen=True)
class DecodingOptions:
    """How captions are searched for.

    Attributes:
        beam_size: Beams per image; 1 is greedy decoding.
        alternatives: How many captions to give per image, the best first: at most `beam_size` from the beam search, any
            number of independent draws from sampling. An image gets fewer if fewer captions were finished.
        max_length: The most words of a caption.
        min_length: The fewest words of a caption.
        length_penalty: Captions are ranked by log_prob / length**length_penalty, where the length counts the words and
            END. 0 ranks by log-probability, which favours short captions; above 0 favours longer ones. Greedy decoding
            and sampling choose their words without it.
        no_repeat_ngram: No sequence of this many words occurs twice in a caption; 0 allows repetition.
        forbidden_endings: Words that a caption may not end with. Those a vocabulary lacks are ignored.
        include: Words and phrases that a caption must contain, each in any of its forms: "cat" stands for cats too, and
            the words of "traffic light" come in a row. Beam search alone can do so; it takes `beam_size` beams for each
            number of words that are still lacking. No model has it among its defaults.
        sample: Draw the words at random (ancestral sampling) instead of searching for the most probable caption.
        temperature: For sampling: log-probabilities are divided by it; below 1 is more cautious, above 1 more varied.
        top_k: For sampling: draw from the `top_k` most probable words only; 0 for all.
        top_p: For sampling: draw from the fewest most probable words that together have this probability (Holtzman et
            al. 2020, "The Curious Case of Neural Text Degeneration"), after `temperature` and `top_k`; 1 for all.
        seed: For sampling: makes the draws repeatable.
        style: The manner of speech, one of the model's `Vocabulary.styles`; "" for the plain one.

    Raises:
        ConfigError: An option has the wrong type, is out of range or contradicts another.
    """

    beam_size: int = 5
    alternatives: int = 1
    max_length: int = 20
    min_length: int = 1
    length_penalty: float = 0.0
    no_repeat_ngram: int = 3
    forbidden_endings: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    style: str = ""

    def __post_init__(self) -> None:
        for name in ("forbidden_endings", "include"):
            if isinstance(getattr(self, name), list):  # as JSON has it
                object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_types()
        _expect(self.beam_size >= 1, "beam_size", self.beam_size, "1 (greedy) or more")
        _expect(self.alternatives >= 1, "alternatives", self.alternatives, "1 or more")
        _expect(self.max_length >= 1, "max_length", self.max_length, "1 or more")
        _expect(0 <= self.min_length <= self.max_length, "min_length", self.min_length, "0 to max_length")
        _expect(-10 <= self.length_penalty <= 10, "length_penalty", self.length_penalty, "-10 to 10")
        _expect(self.no_repeat_ngram >= 0, "no_repeat_ngram", self.no_repeat_ngram, "0 (off) or more")
        _expect(0 < self.temperature < math.inf, "temperature", self.temperature, "a finite number above 0")
        _expect(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _expect(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, at most 1 (off)")
        _expect(self.seed is None or self.seed >= 0, "seed", self.seed, "0 or more, or none")
        if self.sample:
            _expect(not self.include, "include", self.include, "none while sample is on: only the beam search includes")
            return
        most = f"at most beam_size ({self.beam_size}); raise beam_size, or turn on sample"
        _expect(self.alternatives <= self.beam_size, "alternatives", self.alternatives, most)
        for name, off in (("temperature", 1), ("top_k", 0), ("top_p", 1)):
            _expect(getattr(self, name) == off, name, getattr(self, name), f"{off} unless sample is on")

    def _check_types(self) -> None:
        for name in ("beam_size", "alternatives", "max_length", "min_length", "no_repeat_ngram", "top_k"):
            _expect(_is(getattr(self, name), int), name, getattr(self, name), "a whole number")
        for name in ("length_penalty", "temperature", "top_p"):
            _expect(_is(getattr(self, name), int, float), name, getattr(self, name), "a number")
        _expect(self.seed is None or _is(self.seed, int), "seed", self.seed, "a whole number or none")
        _expect(isinstance(self.sample, bool), "sample", self.sample, "true or false")
        _expect(isinstance(self.style, str), "style", self.style, "the name of a style")
        for name in ("forbidden_endings", "include"):
            words = getattr(self, name)
            are_words = isinstance(words, tuple) and all(isinstance(word, str) for word in words)
            _expect(are_words, name, words, "a list of words")

    def to_dict(self) -> dict[str, Any]:
        """Give all options as JSON can hold them; `include` and `style` only if they say something."""
        options = dataclasses.asdict(self) | {"forbidden_endings": list(self.forbidden_endings)}
        include, style = options.pop("include"), options.pop("style")
        return options | ({"include": list(include)} if include else {}) | ({"style": style} if style else {})

    def check_defaults(self) -> None:
        """Make sure that these can be a model's defaults.

        Raises:
            ConfigError: They ask for something that belongs to a photo.
        """
        _expect(not self.include, "include", self.include, "none in a model's defaults: ask for it with a photo")

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "DecodingOptions":
        """Make options from what `to_dict` gave; those left out have their defaults.

        Raises:
            ConfigError: An option is unknown, or its value cannot be used.
        """
        if not isinstance(options, Mapping):
            raise ConfigError(f"The decoding options are {options!r}; expected a JSON object.")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"Unknown decoding option {name!r}; expected one of {', '.join(known)}.")
        return cls(**options)


def _is(value: object, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _expect(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value!r}; expected {expected}.")
