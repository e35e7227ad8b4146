"""Leaks between splits: the same images are found under any name, others are not."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.annotations.leaks import Leaks, find_leaks
from captioner.annotations.records import Record
from captioner.tokenizer import tokenize
from captioner.vocabulary import Vocabulary


def make(
    folder: Path, name: str, content: bytes | None = None, captions: Sequence[str] = ("A dog.",)
) -> Record:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        np.random.default_rng([*name.encode()]).bytes(5000) if content is None else content
    )
    return Record(name, path, tuple(captions))


@pytest.fixture
def train(tmp_path: Path) -> list[Record]:
    return [make(tmp_path, f"train/{number}.jpg") for number in range(5)]


@pytest.fixture
def val(tmp_path: Path) -> list[Record]:
    return [make(tmp_path, f"val/{number}.jpg") for number in range(3)]


def test_different_images_of_the_same_size_are_not_shared(
    train: list[Record], val: list[Record]
) -> None:
    leaks = find_leaks(train, val, 1)
    assert leaks == Leaks(n_images=3)
    assert leaks.warnings() == []


def test_the_same_file_is_shared_by_whatever_path(
    train: list[Record], val: list[Record], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "train")
    os.link(train[2].path, tmp_path / "hard.jpg")
    paths = [
        train[0].path,
        tmp_path / "val" / ".." / "train" / "1.jpg",
        tmp_path / "link" / "3.jpg",
        tmp_path / "hard.jpg",
    ]
    leaks = find_leaks(train, [*val, *(Record(f"{path}", path, ("A cat.",)) for path in paths)], 1)
    assert leaks == Leaks(n_images=7, shared_images=4, leaked_words=0, example=(paths[0], paths[0]))


def test_a_copy_is_shared_and_with_one_byte_changed_is_not(
    train: list[Record], val: list[Record], tmp_path: Path
) -> None:
    copy = Record("copy", tmp_path / "copy.jpg", ("A cat.",))
    shutil.copy(train[3].path, copy.path)
    leaks = find_leaks(train, [*val, copy], 1)
    assert leaks == Leaks(4, shared_images=1, copies=1, example=(train[3].path, copy.path))
    (warning,) = leaks.warnings()
    assert "1 of 4 validation images are in the training data too, 1 as copies" in warning
    assert str(copy.path) in warning and str(train[3].path) in warning

    content = bytearray(train[3].path.read_bytes())
    for place in (0, len(content) // 2, -1):
        changed = bytearray(content)
        changed[place] ^= 1
        copy.path.write_bytes(changed)
        assert find_leaks(train, [*val, copy], 1) == Leaks(4)


def test_small_empty_and_missing_files(
    train: list[Record], val: list[Record], tmp_path: Path
) -> None:
    empty = [make(tmp_path, f"{side}/empty.jpg", b"") for side in ("train", "val")]
    missing = Record("missing", tmp_path / "missing.jpg", ("x",))
    folder = Record("folder", tmp_path / "train", ("x",))
    no_path = Record("no path", tmp_path / "a\0b", ("x",))
    others = [missing, folder, no_path]
    assert find_leaks([*train, empty[0], *others], [*val, empty[1], *others], 1) == Leaks(7)
    small = [make(tmp_path, f"{side}/small.jpg", b"x") for side in ("train", "val")]
    assert find_leaks([*train, small[0]], [*val, small[1]], 1).shared_images == 1


captions = st.lists(
    st.lists(st.sampled_from(["a", "dog", "cat", "hat", "runs", "red"]), min_size=1).map(" ".join),
    min_size=1,
)


@settings(deadline=None, max_examples=40)
@given(
    texts=st.lists(captions, min_size=3, max_size=6),
    val_texts=st.lists(captions, min_size=3, max_size=3),
    shared=st.sets(st.integers(0, 2)),
    min_count=st.integers(1, 4),
)
def test_counts_are_those_of_a_vocabulary_without_the_shared_images(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[list[str]],
    val_texts: list[list[str]],
    shared: set[int],
    min_count: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "leaks"
    folder.mkdir(exist_ok=True)
    train = [make(folder, f"{number}.jpg", captions=texts) for number, texts in enumerate(texts)]
    val = [
        make(
            folder,
            f"val{number}.jpg",
            train[number].path.read_bytes() if number in shared else None,
            texts,
        )
        for number, texts in enumerate(val_texts)
    ]
    leaks = find_leaks(train, val, min_count)

    def words(records: Sequence[Record]) -> set[str]:
        tokens = (tokenize(caption) for record in records for caption in record.captions)
        return set(Vocabulary.build(tokens, min_count).words)

    others = [record for number, record in enumerate(train) if number not in shared]
    verbatim = sum(text in texts[number] for number in shared for text in val_texts[number])
    assert leaks.shared_images == leaks.copies == len(shared)
    assert leaks.leaked_words == len(words(train) - words(others))
    assert leaks.shared_captions == verbatim
    assert len(leaks.warnings()) == bool(shared) + bool(leaks.leaked_words) + bool(verbatim)
