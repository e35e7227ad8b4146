"""Decoding options: one table that defines flags, help, checks, the demo's fields and the API.

A new option is one field of `DecodingOptions`, created by `_option`. Its name, its type and its
other attributes (see `Option`) define

- the flag and its help (`captioner.commands.decoding`), and the key `model.decoding.NAME` of a
  training config;
- the check of its type and range, in `DecodingOptions` itself;
- the parameter of the demo's API, its limit there and, if it has a `Control`, its field on the
  demo's page (`captioner.demo`);
- the documentation of `DecodingOptions`.

Imports only the standard library, so that the commands' help appears at once.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import cleandoc
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from captioner.errors import ConfigError

ENGLISH_ENDINGS = (
    *("a", "an", "the", "of", "in", "on", "with", "and", "at", "to", "from", "by", "for"),
    *("is", "are", "his", "her", "their"),
)
"""Words that never end an English sentence; `forbidden_endings="english"` stands for them."""


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    tuple: "a list of words",
}


@dataclass(frozen=True)
class Control:
    """An option's field in the demo: a slider for a number, a checkbox, a text field for words.

    A name that the model defines, such as a style, is chosen from a dropdown.

    Attributes:
        label: The label of the field.
        info: A short hint below the label.
        least: The minimum of a slider.
        most: Its maximum, unless the model's own value is larger.
        step: The step between its values.
        start: The initial value is at least this, whatever the model's own value.
    """

    label: str
    info: str | None = None
    least: float = 0
    most: float = 0
    step: float = 1
    start: float = -math.inf


@dataclass(frozen=True)
class Option:
    """The definition of one option.

    Attributes:
        name: The field of `DecodingOptions`.
        type: The type of a value: int, float, bool, str, or tuple for a list of words.
        optional: Whether the value may be None.
        default: The default.
        help: A one-sentence description.
        more: Further details, for the documentation.
        metavar: The placeholder of the flag's value in the help.
        group: The group of its flag: "search" or "sampling".
        expected: The description of valid values in error messages.
        in_range: Whether a value of the right type is in range.
        names: Names that stand for a list of words.
        needs: The switch without which the option must keep its default.
        public_limit: The largest number, or the most words, that a visitor of the demo may request.
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
        """Convert a list, or the name of one, to a tuple, and numpy's numbers to Python's."""
        if isinstance(value, str) and self.is_words:
            return self.names.get(value, value)
        if isinstance(value, Real) and not isinstance(value, bool | int | float):
            return int(value) if isinstance(value, Integral) else float(value)
        return tuple(value) if self.is_words and isinstance(value, list) else value

    def check(self, value: object) -> None:
        """Check the type and the range of a value.

        Raises:
            ConfigError: The value has the wrong type or is out of range.
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
    """Create a field of `DecodingOptions`; `about` holds the attributes of `Option`."""
    return dataclasses.field(default=default, metadata={"help": help, **about})


@dataclass(frozen=True)
class DecodingOptions:
    """The options of decoding.

    Raises:
        ConfigError: An option has the wrong type, is out of range or contradicts another.
    """

    beam_size: int = _option(
        5,
        "Beam size of the search; 1 is greedy decoding.",
        in_range=lambda size: size >= 1,
        expected="1 (greedy) or more",
        public_limit=20,
        control=Control("Beam size", "How many sentences are tried at once", least=1, most=10),
    )
    alternatives: int = _option(
        1,
        "Captions per image, best first.",
        more=(
            "Beam search returns at most `beam_size`; sampling draws any number independently. An"
            " image gets fewer if the search finished fewer."
        ),
        in_range=lambda count: count >= 1,
        expected="1 or more",
        public_limit=10,
        control=Control("Captions", "At most as many as beams", least=1, most=10, start=3),
    )
    max_length: int = _option(
        20,
        "Maximum number of words in a caption.",
        in_range=lambda length: length >= 1,
        expected="1 or more",
        public_limit=50,
        control=Control("Longest caption, in words", least=1, most=25),
    )
    min_length: int = _option(
        1,
        "Minimum number of words in a caption.",
        in_range=lambda length: length >= 0,
        expected="0 to max_length",
        public_limit=50,
    )
    length_penalty: float = _option(
        0.0,
        "Length penalty; values above 0 favour longer captions.",
        more=(
            "Captions are ranked by log_prob / length**length_penalty, where the length counts the"
            " words and END. 0 ranks by log-probability, which favours short captions. Greedy"
            " decoding and sampling ignore it when they choose words."
        ),
        metavar="X",
        in_range=lambda penalty: -10 <= penalty <= 10,
        expected="-10 to 10",
    )
    no_repeat_ngram: int = _option(
        3,
        "Never repeat an n-gram of this many words; 0 turns this off.",
        in_range=lambda words: words >= 0,
        expected="0 (off) or more",
        public_limit=10,
        control=Control("Never repeat so many words in a row", "0 allows repetition", most=5),
    )
    repeat_words: bool = _option(
        True,
        "Allow a word to occur again.",
        more=(
            "If false, a word occurs only once in a caption, unless it is one of the forbidden"
            " endings, which are taken for function words: these may occur again, but not twice in"
            " a row. Without forbidden endings only a word directly after itself is excluded."
        ),
        control=Control("Allow a word to occur again"),
    )
    forbidden_endings: tuple[str, ...] | Literal["english"] = _option(
        (),
        "Words that a caption may not end with, such as a,the,of; or english for a built-in list.",
        more=(
            '"english" is replaced by `ENGLISH_ENDINGS`. Words outside the vocabulary are ignored.'
        ),
        metavar="WORDS",
        names={"english": ENGLISH_ENDINGS},
        public_limit=100,
    )
    include: tuple[str, ...] = _option(
        (),
        "Words or phrases that captions must contain: cat,traffic light; repeatable.",
        more=(
            'Each word may appear in any of its forms: "cat" also matches cats. The words of a'
            ' phrase such as "traffic light" must be consecutive. Requires beam search, which keeps'
            " `beam_size` beams for each number of words that are still missing. Cannot be one of"
            " a model's defaults."
        ),
        metavar="WORDS",
        public_limit=5,
        control=Control("Must contain", "Words or phrases, separated by commas; then press Enter"),
    )
    say_tags: bool = _option(
        False,
        "Mention the most likely tag if the caption lacks it and it is likely enough.",
        more=(
            "Applies if the caption contains no form of the image's most likely tag. It is replaced"
            " by the best caption with that word among those whose probability is lower by a factor"
            " of at most the odds of the tag. Requires beam search; models without tags ignore it."
        ),
        control=Control("Mention confident tags"),
    )
    style: str = _option(
        "",
        "The style of the captions, one of the model's.",
        more="A name in the model's `Vocabulary.styles`; empty for the plain style.",
        metavar="NAME",
        control=Control("Style", "The style of the captions"),
    )
    sample: bool = _option(
        False,
        "Draw words at random instead of searching.",
        more="Uses ancestral sampling instead of searching for the most probable caption.",
        group="sampling",
        control=Control("Draw words at random instead of searching"),
    )
    temperature: float = _option(
        1.0,
        "Sampling temperature; below 1 is more cautious, above 1 more varied.",
        more="Log-probabilities are divided by it.",
        metavar="X",
        group="sampling",
        needs="sample",
        in_range=lambda temperature: 0 < temperature < math.inf,
        expected="a finite number above 0",
        control=Control(
            "Temperature",
            "For sampling: below 1 is more cautious, above 1 more varied",
            least=0.1,
            most=2,
            step=0.1,
        ),
    )
    top_k: int = _option(
        0,
        "Draw from this many most probable words; 0 for all.",
        group="sampling",
        needs="sample",
        in_range=lambda words: words >= 0,
        expected="0 (off) or more",
    )
    top_p: float = _option(
        1.0,
        "Draw from the most probable words with this total probability; 1 for all.",
        more=(
            "Nucleus sampling: keeps the smallest set of most probable words whose total"
            ' probability reaches it (Holtzman et al. 2020, "The Curious Case of Neural Text'
            ' Degeneration"), after `temperature` and `top_k`.'
        ),
        metavar="P",
        group="sampling",
        needs="sample",
        in_range=lambda probability: 0 < probability <= 1,
        expected="above 0, at most 1 (off)",
    )
    seed: int | None = _option(
        None,
        "Random seed, which makes sampling reproducible.",
        group="sampling",
        in_range=lambda seed: seed >= 0,
        expected="0 or more, or none",
    )

    def __post_init__(self) -> None:
        for option in decoding_options():
            value = option.settle(getattr(self, option.name))
            object.__setattr__(self, option.name, value)
            option.check(value)
        shorter = f"0 to max_length ({self.max_length}); set both, or raise max_length"
        _expect(self.min_length <= self.max_length, "min_length", self.min_length, shorter)
        if not self.sample:
            most = f"at most beam_size ({self.beam_size}); raise beam_size, or turn on sample"
            _expect(self.alternatives <= self.beam_size, "alternatives", self.alternatives, most)
        else:
            _expect(
                not self.include,
                "include",
                self.include,
                "none while sample is on: include requires beam search",
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
        """Return all options as plain data for JSON; `include` and `style` only if they are set."""
        values = dataclasses.asdict(self)
        for name in ("include", "style"):
            if not values[name]:
                del values[name]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def check_defaults(self) -> None:
        """Check that these options can be a model's defaults.

        Raises:
            ConfigError: An option only makes sense for a single photo.
        """
        _expect(
            not self.include,
            "include",
            self.include,
            "none in a model's defaults: pass it with a photo",
        )

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "DecodingOptions":
        """Create options from the result of `to_dict`; missing ones get their defaults.

        Raises:
            ConfigError: An option is unknown, or its value is invalid.
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

    def changed(self, changes: Mapping[str, Any]) -> "DecodingOptions":
        """Return a copy with some options changed.

        Options that need a switch get their defaults where it is turned off: a model that samples
        at a temperature of 0.7 by default can search too.

        Args:
            changes: The new values, by name.

        Raises:
            ConfigError: An option is unknown, or its value is invalid.
        """
        idle = [
            option.name
            for option in decoding_options()
            if option.needs is not None and changes.get(option.needs) is False
        ]
        kept = {name: value for name, value in self.to_dict().items() if name not in idle}
        return DecodingOptions.from_dict(kept | dict(changes))


@cache
def decoding_options() -> tuple[Option, ...]:
    """Return all options, in the order of the fields of `DecodingOptions`."""
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
