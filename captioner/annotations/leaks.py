"""Find data leaks: validation images and captions that are in the training split too."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.annotations.records import Record
from captioner.tokenizer import tokenize

_Group = tuple[list[Record], list[Record]]  # training and validation images that may be the same

_TAIL = 1024  # bytes; different compressed images almost never end in the same bytes


@dataclass(frozen=True)
class Leaks:
    """Validation data that is in the training split too.

    Attributes:
        n_images: Number of validation images.
        shared_images: How many of them are in the training split too.
        copies: How many of these are copies: other files with the same bytes.
        shared_captions: How many validation captions of the shared images are in the training
            split verbatim.
        leaked_words: How many words are in the vocabulary only because of the shared images'
            training captions.
        example: A training and a validation file with the same image.
    """

    n_images: int
    shared_images: int = 0
    copies: int = 0
    shared_captions: int = 0
    leaked_words: int = 0
    example: tuple[Path, Path] | None = None

    def warnings(self) -> list[str]:
        """Return a warning for each kind of leak; an empty list if there is none."""
        if self.example is None:
            return []
        train, val = self.example
        copies = f", {self.copies:,} as copies" if self.copies else ""
        told = [
            f"{self.shared_images:,} of {self.n_images:,} validation images are in the training"
            f" data too{copies}: scores will be too high. For example:"
            f" {val}{f' is {train}' if train != val else ''}."
        ]
        if self.shared_captions:
            told.append(
                f"{self.shared_captions:,} validation captions of these images are training"
                " captions too."
            )
        if self.leaked_words:
            told.append(
                f"{self.leaked_words:,} words are in the vocabulary only because of these images'"
                " captions."
            )
        return told


def find_leaks(train: Sequence[Record], val: Sequence[Record], min_count: int) -> Leaks:
    """Find images that are in both splits, and words that only their captions contribute.

    Images are the same if their files have the same bytes, whatever their names. Unreadable files
    are skipped. Sizes are compared first, then the last bytes, so that few files are read whole.

    Args:
        train: The training split.
        val: The validation split.
        min_count: Words that occur less often in training captions are not in the vocabulary.
    """
    alike = _divide(_divide([(list(train), list(val))], _size), _tail)
    shared = [group for group in alike if _is_one_file(group)]
    shared += _divide((group for group in alike if not _is_one_file(group)), _digest)
    if not shared:
        return Leaks(len(val))
    return Leaks(
        n_images=len(val),
        shared_images=sum(len(theirs) for _, theirs in shared),
        copies=sum(_copies(group) for group in shared),
        shared_captions=sum(_shared_captions(group) for group in shared),
        leaked_words=_leaked_words(
            train, [record for ours, _ in shared for record in ours], min_count
        ),
        example=(shared[0][0][0].path, shared[0][1][0].path),
    )


def _divide(groups: Iterable[_Group], key: Callable[[Path], Hashable]) -> list[_Group]:
    """Split groups by key; return the groups that have images of both splits."""
    kept = []
    for group in groups:
        parts: dict[Hashable, _Group] = {}
        for side, records in enumerate(group):
            for record in records:
                try:
                    part = parts.setdefault(key(record.path), ([], []))
                except (OSError, ValueError):  # ValueError: an invalid path
                    continue
                part[side].append(record)
        kept += [part for part in parts.values() if part[0] and part[1]]
    return kept


def _size(path: Path) -> Hashable:
    return path.stat().st_size or path  # empty files are failed downloads, not the same image


def _tail(path: Path) -> Hashable:
    with path.open("rb", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        return hashlib.sha256(file.read(_TAIL)).digest()


def _digest(path: Path) -> Hashable:
    return hashlib.sha256(path.read_bytes()).digest()


def _file(record: Record) -> tuple[int, int]:
    """Return what identifies a file whatever its path, as in `os.path.samefile`."""
    stat = record.path.stat()
    return stat.st_dev, stat.st_ino


def _is_one_file(group: _Group) -> bool:
    return len({_file(record) for record in (*group[0], *group[1])}) == 1


def _copies(group: _Group) -> int:
    known = {_file(record) for record in group[0]}
    return sum(_file(record) not in known for record in group[1])


def _shared_captions(group: _Group) -> int:
    known = {caption for record in group[0] for caption in record.captions}
    return sum(caption in known for record in group[1] for caption in record.captions)


def _leaked_words(train: Sequence[Record], shared: Sequence[Record], min_count: int) -> int:
    """Count the words that reach `min_count` only because of the shared images' captions."""
    counts = _count_words(train)
    return sum(
        counts[word] - count < min_count <= counts[word]
        for word, count in _count_words(shared).items()
    )


def _count_words(records: Sequence[Record]) -> Counter[str]:
    return Counter(
        word for record in records for caption in record.captions for word in tokenize(caption)
    )
