"""Words and their ids.

The first four ids are never words of a caption: `PAD` fills batches, `START` is the decoder's input
before the first word, `END` ends a caption, and `UNKNOWN` stands for a word that is not in the
vocabulary.

A model may have several styles: the captions of each begin with its own start token instead
of `START`. It is the special word `<start:NAME>`, which comes after the words.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.errors import CheckpointError, ConfigError
from captioner.tokenizer import touches

PAD, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")
NEVER = (PAD, START, UNKNOWN)  # never generated, nor are the start tokens of styles

_STYLE = re.compile(r"<start:([\w.-]+)>")

# The second halves of contractions as PTB tokenizers split them: "dog 's", "they 're", "does n't".
CONTRACTIONS = frozenset({"'s", "'re", "'ve", "'ll", "'d", "'m", "n't"})


class Vocabulary:
    """The words a model knows, each with its id.

    Args:
        words: All words in id order, beginning with `SPECIAL_WORDS`.

    Raises:
        ValueError: The special words don't come first, or a word is empty, not a string or
            duplicated.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words: tuple[str, ...] = tuple(words)
        if self.words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            raise ValueError(f"the first words must be {', '.join(SPECIAL_WORDS)}")
        self._ids: dict[str, int] = {}
        for index, word in enumerate(self.words):
            if not isinstance(word, str) or not word:
                raise ValueError(f"word {index} is {word!r}, not a non-empty string")
            if word in self._ids:
                raise ValueError(f"duplicate word {word!r}, ids {self._ids[word]} and {index}")
            self._ids[word] = index
        matches = (
            (index, _STYLE.fullmatch(word))
            for index, word in enumerate(self.words)
            if word.startswith("<")
        )
        self._starts = {match[1]: index for index, match in matches if match is not None}

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], min_count: int) -> "Vocabulary":
        """Collect the words that occur at least `min_count` times.

        The most frequent words come first; ties are sorted alphabetically.

        Args:
            captions: Tokenized captions, of the training split only.
            min_count: How often a word must occur, at least 1.

        Raises:
            ConfigError: `min_count` is below 1.
        """
        if min_count < 1:
            raise ConfigError(f"min_count is {min_count}; expected 1 (keep every word) or more.")
        counts = Counter(word for caption in captions for word in caption)
        kept = (
            word for word, count in counts.items() if count >= min_count and not is_special(word)
        )
        return cls((*SPECIAL_WORDS, *sorted(kept, key=lambda word: (-counts[word], word))))

    def extended(self, words: Iterable[str]) -> "Vocabulary":
        """Append words; existing words keep their ids, and duplicates are skipped."""
        return Vocabulary([*self.words, *(word for word in words if word not in self)])

    def with_styles(self, names: Iterable[str]) -> "Vocabulary":
        """Append start tokens for styles; existing ones and "", the plain style, are skipped.

        Raises:
            ConfigError: A name has other characters than letters, digits and `._-`.
        """
        wanted = [name for name in dict.fromkeys(names) if name]
        for name in wanted:
            if not is_name(name):
                raise ConfigError(
                    f"Invalid name of a style: {name!r}; expected letters, digits, dots, _ and -."
                )
        return self.extended(f"<start:{name}>" for name in wanted)

    @property
    def styles(self) -> tuple[str, ...]:
        """The names of the styles of captions, except the plain one."""
        return tuple(self._starts)

    @property
    def never(self) -> tuple[int, ...]:
        """The ids that are never generated."""
        return (*NEVER, *self._starts.values())

    def start(self, style: str = "") -> int:
        """Return the start token of a style; `START` for the plain style, "".

        Raises:
            ConfigError: There is no such style.
        """
        if style and style not in self._starts:
            known = (
                f"expected one of {', '.join(self.styles)}"
                if self._starts
                else "the model has only the plain style"
            )
            raise ConfigError(f"There is no style {style!r}; {known}.")
        return self._starts[style] if style else START

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return self.words == other.words if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def index(self, word: str) -> int:
        """Return the id of `word`, or `UNKNOWN` if it is not in the vocabulary."""
        return self._ids.get(word, UNKNOWN)

    def encode(
        self, tokens: Sequence[str], max_length: int | None = None, style: str = ""
    ) -> list[int]:
        """Convert a tokenized caption to ids, from its start token to `END`.

        Args:
            tokens: The caption's words. One that is spelled like a special word counts as unknown.
            max_length: Maximum number of words between the start token and `END`; None keeps all.
            style: The style whose start token is used; `START` by default.

        Raises:
            ConfigError: There is no such style.
        """
        words = (UNKNOWN if is_special(word) else self.index(word) for word in tokens[:max_length])
        return [self.start(style), *words, END]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Convert ids to words, up to the first `END`; start tokens and `PAD` are omitted.

        Raises:
            IndexError: An id is not in the vocabulary.
        """
        words: list[str] = []
        for index in ids:
            if index == END:
                break
            if not 0 <= index < len(self):
                raise IndexError(f"word id {index} is outside the vocabulary of {len(self)} words")
            if index not in (PAD, START) and index not in self._starts.values():
                words.append(self.words[index])
        return words

    def text(self, ids: Iterable[int]) -> str:
        """Convert ids to a sentence: the words of `decode` with contractions joined.

        For example, "the dog 's" becomes "the dog's".
        There are no spaces around characters of scripts that have none, such as Chinese.
        """
        sentence = ""
        for word in self.decode(ids):
            sentence += (
                word
                if not sentence or word in CONTRACTIONS or touches(sentence, word)
                else f" {word}"
            )
        return sentence

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the words to `path` as a JSON list in id order, one word a line."""
        Path(path).write_text(
            json.dumps(self.words, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            CheckpointError: The file cannot be read, or does not hold a vocabulary.
        """
        hint = (
            "Expected a JSON list of words as `captioner` writes it; restore the file from where"
            " the model came from."
        )
        try:
            words = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(words, list):
                raise ValueError(f"it holds a JSON {type(words).__name__}, not a list")
            return cls(words)
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot read the vocabulary: {error.strerror or error}. {hint}"
            ) from error
        except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
            raise CheckpointError(f"{path}: not a vocabulary: {error}. {hint}") from error


def is_special(word: str) -> bool:
    """Return whether a word is one of `SPECIAL_WORDS` or the start token of a style."""
    return word in SPECIAL_WORDS or _STYLE.fullmatch(word) is not None


def is_name(text: str) -> bool:
    """Return whether a text is a valid name of a style, or of anything used in file names."""
    return _STYLE.fullmatch(f"<start:{text}>") is not None
