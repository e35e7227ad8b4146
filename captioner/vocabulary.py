"""Words and their ids.

Four ids come first and are never words of a caption: `PAD` fills batches, `START` is what the decoder is given before
the first word, `END` closes a caption, and `UNKNOWN` stands for a word that is not in the vocabulary.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.errors import CheckpointError, ConfigError
from captioner.tokenizer import touches

PAD, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")

# The second halves of contractions as PTB tokenizers split them: "dog 's", "they 're", "does n't".
CONTRACTIONS = frozenset({"'s", "'re", "'ve", "'ll", "'d", "'m", "n't"})


class Vocabulary:
    """The words a model knows, each with its id.

    Args:
        words: All words in id order, beginning with `SPECIAL_WORDS`.

    Raises:
        ValueError: The special words don't come first, or a word is empty, not a string or there twice.
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
                raise ValueError(f"the word {word!r} is there twice, as {self._ids[word]} and {index}")
            self._ids[word] = index

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], min_count: int) -> "Vocabulary":
        """Collect the words that occur at least `min_count` times, the most frequent first, ties by spelling.

        Args:
            captions: Tokenized captions, of the training split only.
            min_count: How often a word must occur, at least 1.

        Raises:
            ConfigError: `min_count` is below 1.
        """
        if min_count < 1:
            raise ConfigError(f"min_count is {min_count}; expected 1 (keep every word) or more.")
        counts = Counter(word for caption in captions for word in caption)
        kept = (word for word, count in counts.items() if count >= min_count and word not in SPECIAL_WORDS)
        return cls((*SPECIAL_WORDS, *sorted(kept, key=lambda word: (-counts[word], word))))

    def extended(self, words: Iterable[str]) -> "Vocabulary":
        """This vocabulary with more words behind its own, which keep their ids; words that it has are passed over."""
        return Vocabulary([*self.words, *(word for word in words if word not in self)])

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
        """Give the id of `word`, `UNKNOWN` if the vocabulary lacks it."""
        return self._ids.get(word, UNKNOWN)

    def encode(self, tokens: Sequence[str], max_length: int | None = None) -> list[int]:
        """Turn a tokenized caption into ids, from `START` to `END`.

        Args:
            tokens: The caption's words. One that is spelled like a special word counts as unknown.
            max_length: The most words to keep between `START` and `END`; all of them if None.
        """
        words = (self.index(word) for word in tokens[:max_length])
        return [START, *(word if word >= len(SPECIAL_WORDS) else UNKNOWN for word in words), END]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Turn ids into words, up to the first `END`; `START` and `PAD` are left out.

        Raises:
            IndexError: An id is not in the vocabulary.
        """
        words: list[str] = []
        for index in ids:
            if index == END:
                break
            if not 0 <= index < len(self):
                raise IndexError(f"word id {index} is outside the vocabulary of {len(self)} words")
            if index not in (PAD, START):
                words.append(self.words[index])
        return words

    def text(self, ids: Iterable[int]) -> str:
        """Turn ids into a sentence: the words of `decode` with contractions joined ("the dog 's" -> "the dog's").

        There are no spaces around characters of scripts that have none, such as Chinese.
        """
        sentence = ""
        for word in self.decode(ids):
            sentence += word if not sentence or word in CONTRACTIONS or touches(sentence, word) else f" {word}"
        return sentence

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the words to `path` as a JSON list in id order, one word a line."""
        Path(path).write_text(json.dumps(self.words, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            CheckpointError: The file cannot be read, or does not hold a vocabulary.
        """
        hint = (
            "Expected a JSON list of words as `captioner` writes it; restore the file from where the model came from."
        )
        try:
            words = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(words, list):
                raise ValueError(f"it holds a JSON {type(words).__name__}, not a list")
            return cls(words)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read the vocabulary: {error.strerror or error}. {hint}") from error
        except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
            raise CheckpointError(f"{path}: not a vocabulary: {error}. {hint}") from error
