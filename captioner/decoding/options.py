"""Decoding options: one table that defines flags, help, checks, the demo's fields and the API.

A new option is one field of `DecodingOptions`, made by `_option`. Its name and its type, together
with what `Option` says of it, give

- the flag and its help (`captioner.commands.decoding`), and the key `model.decoding.NAME` of a
  config of training;
- the check of its type and its range, in `DecodingOptions` itself;
- the parameter of the demo's API, its limit there and, if it has a `Control`, its field on the page
  (`captioner.demo`);
- the documentation of `DecodingOptions`.

Standard library alone, so that the commands' help takes a blink.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import cleandoc
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from captioner.errors import ConfigError

ENGLISH_ENDINGS = (
    *("a", "an", "the", "of", "in", "on", "with", "and", "at", "to", "from", "by", "for"),
    *("is", "are", "his", "her", "their"),
)
"""What no English sentence ends with: `forbidden_endings="english"` stands for these words."""


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple: "a list of words",
}


@dataclass(frozen=True)
class Control:
    """How the demo shows an option: a slider for a number, a checkbox, a text field for words.

    A name that the model knows, such as a style, is chosen from a list.

    Attributes:
        label: What it is called there.
        info: A few words below the label.
        least: Where a slider begins.
        most: Where it ends, unless the model's own value lies beyond.
        step: How far apart its values are.
        start: The page begins with this number at least, whatever the model's own value.
    """

    label: str
    info: str | None = None
    least: float = 0
    most: float = 0
    step: float = 1
    start: float = -math.inf


@dataclass(frozen=True)
class Option:
    """What is known of an option beside its name and its type.

    Attributes:
        name: The field of `DecodingOptions`.
        type: Of one value: int, float, bool, str, or tuple for a list of words.
        optional: Whether None is a value.
        default: The default.
        help: What it is, in a sentence.
        more: What else there is to say, for the documentation.
        metavar: What help calls the flag's value.
        group: Of the flags: "search" or "sampling".
        expected: What errors call a value in range.
        in_range: Whether a value of the right type is in range.
        names: Names that stand for a list of words.
        needs: The switch without which the option must keep its default.
        public_limit: The largest number, or the most words, that a visitor of the demo may ask for.
        control: Its field on the demo's page, if it has one.
    """

    name: str
    type: type
    optional: bool
    default: Any
    help: str
    more: str = ""
    metavar: str = "N"
    group: Literal["search", "sampling"] = "search"
    expected: str = ""
    in_range: Callable[[Any], bool] = lambda value: True
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    needs: str | None = None
    public_limit: int | None = None
    control: Control | None = None

    @property
    def is_words(self) -> bool:
        """Whether its value is a tuple of words."""
        return self.type is tuple

    def words(self, line: str) -> list[str] | str:
        """Parse words separated by commas, or the name of a list; `name,` is the word itself."""
        return (
            line
            if line in self.names
            else [word.strip() for word in line.split(",") if word.strip()]
        )

    def settle(self, value: Any) -> Any:
        """Convert a list from JSON, or the name of a list, to a tuple; return others unchanged."""
        if isinstance(value, str) and self.is_words:
            return self.names.get(value, value)
        return tuple(value) if self.is_words and isinstance(value, list) else value

    def check(self, value: object) -> None:
        """Refuse a value of the wrong type or out of range.

        Raises:
            ConfigError: It is.
        """
        if value is None and self.optional:
            return
        kind = _KINDS[self.type]
        _expect(
            self._has_type(value), self.name, value, f"{kind} or none" if self.optional else kind
        )
        _expect(self.in_range(value), self.name, value, self.expected)

    def _has_type(self, value: object) -> bool:
        if self.is_words:
            return isinstance(value, tuple) and all(isinstance(word, str) for word in value)
        types = (int, float) if self.type is float else self.type
        return isinstance(value, types) and isinstance(value, bool) == (self.type is bool)


def _option(default: Any, help: str, **about: Any) -> Any:
    """Make a field of `DecodingOptions`; `about` are the attributes of `Option`."""
    return dataclasses.field(default=default, metadata={"help": help, **about})


@dataclass(frozen=True)
class DecodingOptions:
    """How captions are searched for.

    Raises:
        ConfigError: An option has the wrong type, is out of range or contradicts another.
    """

    beam_size: int = _option(
        5,
        "Beams of the search; 1 is greedy.",
        in_range=lambda size: size >= 1,
        expected="1 (greedy) or more",
        public_limit=20,
        control=Control("Beam size", "How many sentences are tried at once", least=1, most=10),
    )
    alternatives: int = _option(
        1,
        "Captions per image, the best first.",
        more=(
            "At most `beam_size` from the beam search, any number of independent draws from"
            " sampling. An image gets fewer if fewer captions were finished."
        ),
        in_range=lambda count: count >= 1,
        expected="1 or more",
        public_limit=10,
        control=Control("Captions", "At most as many as beams", least=1, most=10, start=3),
    )
    max_length: int = _option(
        20,
        "The most words of a caption.",
        in_range=lambda length: length >= 1,
        expected="1 or more",
        public_limit=50,
        control=Control("Longest caption, in words", least=1, most=25),
    )
    min_length: int = _option(
        1,
        "The fewest words of a caption.",
        in_range=lambda length: length >= 0,
        expected="0 to max_length",
        public_limit=50,
    )
    length_penalty: float = _option(
        0.0,
        "Above 0 favours longer captions.",
        more=(
            "Captions are ranked by log_prob / length**length_penalty, where the length counts the"
            " words and END. 0 ranks by log-probability, which favours short captions. Greedy"
            " decoding and sampling choose their words without it."
        ),
        metavar="X",
        in_range=lambda penalty: -10 <= penalty <= 10,
        expected="-10 to 10",
    )
    no_repeat_ngram: int = _option(
        3,
        "So many words in a row only once; 0 is off.",
        in_range=lambda words: words >= 0,
        expected="0 (off) or more",
        public_limit=10,
        control=Control("Never repeat so many words in a row", "0 allows repetition", most=5),
    )
    repeat_words: bool = _option(
        True,
        "Allow the same word twice in a row.",
        control=Control("Allow the same word twice in a row"),
    )
    forbidden_endings: tuple[str, ...] | Literal["english"] = _option(
        (),
        "What no caption ends with: a,the,of; or english, for such words.",
        more=(
            '"english" stands for `ENGLISH_ENDINGS`, and becomes these words. Words that a'
            " vocabulary lacks are ignored."
        ),
        metavar="WORDS",
        names={"english": ENGLISH_ENDINGS},
        public_limit=100,
    )
    include: tuple[str, ...] = _option(
        (),
        "What captions must contain: cat,traffic light; repeatable.",
        more=(
            'Words and phrases, each word in any of its forms: "cat" stands for cats too, and the'
            ' words of "traffic light" come in a row. Beam search alone can do so; it takes'
            " `beam_size` beams for each number of words that are still lacking. No model has it"
            " among its defaults."
        ),
        metavar="WORDS",
        public_limit=5,
        control=Control("Must contain", "Words or phrases, between commas"),
    )
    say_tags: bool = _option(
        False,
        "Say a tag that the caption lacks, if it is likely enough.",
        more=(
            "The most likely tag of an image, if the caption names it in no form. The best caption"
            " with that word replaces it if its probability is lower by no more than the odds of"
            " the tag. Beam search alone does so; models without tags ignore it."
        ),
        control=Control("Say what the tags are sure of"),
    )
    style: str = _option(
        "",
        "The manner of speech, one of the model's.",
        more="The name of one of the model's `Vocabulary.styles`; empty for the plain one.",
        metavar="NAME",
        control=Control("Style", "The manner of speech"),
    )
    sample: bool = _option(
        False,
        "Draw words at random instead of searching.",
        more="Ancestral sampling, instead of the search for the most probable caption.",
        group="sampling",
        control=Control("Draw words at random instead of searching"),
    )
    temperature: float = _option(
        1.0,
        "Below 1 is cautious, above 1 varied.",
        more="Log-probabilities are divided by it.",
        metavar="X",
        group="sampling",
        needs="sample",
        in_range=lambda temperature: 0 < temperature < math.inf,
        expected="a finite number above 0",
        control=Control(
            "Temperature",
            "Of random words: below 1 is cautious, above 1 varied",
            least=0.1,
            most=2,
            step=0.1,
        ),
    )
    top_k: int = _option(
        0,
        "Draw from so many most probable words; 0 for all.",
        group="sampling",
        needs="sample",
        in_range=lambda words: words >= 0,
        expected="0 (off) or more",
    )
    top_p: float = _option(
        1.0,
        "Draw from words of this joint probability; 1 for all.",
        more=(
            'The fewest most probable words that together have it (Holtzman et al. 2020, "The'
            ' Curious Case of Neural Text Degeneration"), after `temperature` and `top_k`.'
        ),
        metavar="P",
        group="sampling",
        needs="sample",
        in_range=lambda probability: 0 < probability <= 1,
        expected="above 0, at most 1 (off)",
    )
    seed: int | None = _option(
        None,
        "Makes the draws repeatable.",
        group="sampling",
        in_range=lambda seed: seed >= 0,
        expected="0 or more, or none",
    )

    def __post_init__(self) -> None:
        for option in decoding_options():
            value = option.settle(getattr(self, option.name))
            object.__setattr__(self, option.name, value)
            option.check(value)
        _expect(
            self.min_length <= self.max_length, "min_length", self.min_length, "0 to max_length"
        )
        if not self.sample:
            most = f"at most beam_size ({self.beam_size}); raise beam_size, or turn on sample"
            _expect(self.alternatives <= self.beam_size, "alternatives", self.alternatives, most)
        else:
            _expect(
                not self.include,
                "include",
                self.include,
                "none while sample is on: only the beam search includes",
            )
        for option in decoding_options():
            value = getattr(self, option.name)
            if option.needs and not getattr(self, option.needs):
                _expect(
                    value == option.default,
                    option.name,
                    value,
                    f"{option.default:g} unless {option.needs} is on",
                )

    def to_dict(self) -> dict[str, Any]:
        """Return all options for JSON; `include` and `style` only if they are set."""
        values = dataclasses.asdict(self)
        for name in ("include", "style"):
            if not values[name]:
                del values[name]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def check_defaults(self) -> None:
        """Make sure that these can be a model's defaults.

        Raises:
            ConfigError: They ask for something that belongs to a photo.
        """
        _expect(
            not self.include,
            "include",
            self.include,
            "none in a model's defaults: ask for it with a photo",
        )

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
                raise ConfigError(
                    f"Unknown decoding option {name!r}; expected one of {', '.join(known)}."
                )
        return cls(**options)


@cache
def decoding_options() -> tuple[Option, ...]:
    """All options, in the order of the fields of `DecodingOptions`."""
    hints = get_type_hints(DecodingOptions)
    return tuple(
        Option(field.name, *_kind(hints[field.name]), field.default, **field.metadata)
        for field in dataclasses.fields(DecodingOptions)
    )


def _kind(hint: Any) -> tuple[type, bool]:
    """Return the type of a value, and whether None is allowed: int | None -> (int, True)."""
    kinds = [hint, *get_args(hint)]
    if tuple[str, ...] in kinds:
        return tuple, NoneType in kinds
    (kind,) = (kind for kind in kinds if kind in (int, float, bool, str))
    return kind, NoneType in kinds


def _expect(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value!r}; expected {expected}.")


def _document() -> None:
    """Write the options into the docstring, where `help` and LightningCLI look for them."""
    listed = "\n".join(
        f"    {option.name}: {option.help} {option.more}".rstrip() for option in decoding_options()
    )
    head, _, tail = cleandoc(DecodingOptions.__doc__ or "").partition("\n\n")
    DecodingOptions.__doc__ = f"{head}\n\nAttributes:\n{listed}\n\n{tail}"


_document()
