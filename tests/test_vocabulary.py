import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.errors import CheckpointError, ConfigError
from captioner.vocabulary import END, PAD, SPECIAL_WORDS, START, UNKNOWN, Vocabulary

WORDS = [*SPECIAL_WORDS, "a", "dog", "'s", "do", "n't", "bark"]


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(WORDS)


def test_special_ids_are_four_different_ones_and_name_the_special_words(
    vocabulary: Vocabulary,
) -> None:
    assert (PAD, START, END, UNKNOWN) == (0, 1, 2, 3)
    assert vocabulary.words[:4] == SPECIAL_WORDS == ("<pad>", "<start>", "<end>", "<unk>")


def test_build_keeps_frequent_words_by_count_then_spelling() -> None:
    captions = [["b", "a", "c"], ["c", "b", "rare"], ["a", "b"]]
    assert Vocabulary.build(captions, min_count=2).words == (*SPECIAL_WORDS, "b", "a", "c")
    assert Vocabulary.build(iter(captions), min_count=1).words == (
        *SPECIAL_WORDS,
        "b",
        "a",
        "c",
        "rare",
    )
    assert Vocabulary.build([], min_count=1).words == SPECIAL_WORDS


def test_build_ignores_captions_that_spell_a_special_word() -> None:
    assert Vocabulary.build([["<end>", "x", "<pad>"]], min_count=1).words == (*SPECIAL_WORDS, "x")


def test_build_refuses_a_minimum_count_below_one() -> None:
    with pytest.raises(ConfigError, match="min_count is 0"):
        Vocabulary.build([["a"]], min_count=0)


def test_new_words_go_behind_the_old_ones_which_keep_their_ids(vocabulary: Vocabulary) -> None:
    extended = vocabulary.extended(["purple", "dog", "<end>", "star", "a"])
    assert extended.words == (*WORDS, "purple", "star")
    assert [extended.index(word) for word in WORDS] == [vocabulary.index(word) for word in WORDS]
    assert len(vocabulary) == len(WORDS), "the vocabulary itself stays as it is"
    assert extended.extended(["star"]) == extended == vocabulary.extended(iter(["purple", "star"]))
    assert vocabulary.extended([]) == vocabulary


def test_encode_frames_the_words_and_marks_unknown_ones(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode(["a", "cat", "bark"]) == [START, 4, UNKNOWN, 9, END]
    assert vocabulary.encode([]) == [START, END]


def test_encode_truncates_between_start_and_end(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode(["a", "dog", "bark"], max_length=2) == [START, 4, 5, END]
    assert vocabulary.encode(["a", "dog"], max_length=2) == [START, 4, 5, END]
    assert vocabulary.encode(["a", "dog"], max_length=0) == [START, END]


def test_a_caption_cannot_smuggle_in_special_ids(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode(["a", "<end>", "<start>", "<pad>"]) == [
        START,
        4,
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
        END,
    ]


def test_decode_stops_at_the_end_and_leaves_out_start_and_padding(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode(np.array([START, 4, 5, END, 9, PAD])) == ["a", "dog"]
    assert vocabulary.decode([START, UNKNOWN, PAD]) == ["<unk>"]


@pytest.mark.parametrize("index", [-1, len(WORDS)])
def test_decode_refuses_ids_outside_the_vocabulary(vocabulary: Vocabulary, index: int) -> None:
    with pytest.raises(IndexError, match=str(index)):
        vocabulary.decode([4, index])


def test_text_joins_contractions(vocabulary: Vocabulary) -> None:
    assert (
        vocabulary.text(vocabulary.encode(["a", "dog", "'s", "do", "n't", "bark"]))
        == "a dog's don't bark"
    )
    assert vocabulary.text([6, 5]) == "'s dog"
    assert vocabulary.text([START, END]) == ""


def test_index_and_membership(vocabulary: Vocabulary) -> None:
    assert len(vocabulary) == len(WORDS)
    assert [vocabulary.index(word) for word in WORDS] == list(range(len(WORDS)))
    assert vocabulary.index("cat") == UNKNOWN
    assert "dog" in vocabulary
    assert "cat" not in vocabulary


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "first words"),
        (["<pad>", "<end>", "<start>", "<unk>"], "first words"),
        ([*SPECIAL_WORDS, "a", "b", "a"], "ids 4 and 6"),
        ([*SPECIAL_WORDS, ""], "word 4 is ''"),
        ([*SPECIAL_WORDS, 7], "word 4 is 7"),
    ],
)
def test_a_list_that_is_no_vocabulary_is_refused(
    words: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(words)
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(words))
    with pytest.raises(CheckpointError, match=message):
        Vocabulary.load(path)


@pytest.mark.parametrize("content", [b"", b"[", b'{"a": 1}', b"\xff\xfe\x00", b"null", b"[[[]]]"])
def test_a_damaged_file_is_one_checkpoint_error_naming_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"vocabulary\.json: not a vocabulary"):
        Vocabulary.load(path)


def test_a_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        Vocabulary.load(tmp_path / "vocabulary.json")


@settings(deadline=None)
@given(
    st.lists(st.text(min_size=1), unique=True).map(
        lambda words: [w for w in words if w not in SPECIAL_WORDS]
    )
)
def test_save_and_load_give_the_same_vocabulary(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    vocabulary = Vocabulary([*SPECIAL_WORDS, *words])
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert Vocabulary.load(path).encode(words) == vocabulary.encode(words)


@settings(deadline=None)
@given(st.lists(st.integers(4, len(WORDS) - 1)))
def test_decode_undoes_encode(ids: list[int]) -> None:
    vocabulary = Vocabulary(WORDS)
    words = [WORDS[index] for index in ids]
    assert vocabulary.encode(words) == [START, *ids, END]
    assert vocabulary.decode(vocabulary.encode(words)) == words


# --- Styles ---


def test_styles_are_start_tokens_behind_the_words(vocabulary: Vocabulary) -> None:
    styled = vocabulary.with_styles(["coco", "", "flickr8k", "coco"])
    assert styled.words == (*WORDS, "<start:coco>", "<start:flickr8k>")
    assert styled.styles == ("coco", "flickr8k")
    assert [styled.start(style) for style in ("", "coco", "flickr8k")] == [START, 10, 11]
    assert styled.encode(["a", "dog"], style="flickr8k") == [11, 4, 5, END]
    assert styled.decode([10, 4, 11, 5, END]) == ["a", "dog"]
    assert styled.never == (PAD, START, UNKNOWN, 10, 11)
    more = styled.extended(["new"]).with_styles(["coco", "third"])
    assert more.words == (*styled.words, "new", "<start:third>"), "all keep their ids"
    assert more.styles == ("coco", "flickr8k", "third")
    assert (vocabulary.styles, vocabulary.never) == ((), (PAD, START, UNKNOWN))


def test_a_start_token_is_never_a_word_of_a_caption(vocabulary: Vocabulary) -> None:
    styled = vocabulary.with_styles(["coco"])
    assert styled.encode(["a", "<start:coco>"]) == [START, 4, UNKNOWN, END]
    assert Vocabulary.build([["<start:coco>", "x"]], min_count=1).words == (*SPECIAL_WORDS, "x")


def test_a_style_that_is_not_there_is_refused_with_those_that_are(vocabulary: Vocabulary) -> None:
    with pytest.raises(ConfigError, match="There is no style 'x'; expected one of coco, own"):
        vocabulary.with_styles(["coco", "own"]).start("x")
    with pytest.raises(
        ConfigError, match="There is no style 'x'; the model has only the plain style"
    ):
        vocabulary.start("x")
    with pytest.raises(ConfigError, match="style: 'my style'"):
        vocabulary.with_styles(["my style"])


def test_styles_are_saved_with_the_words(vocabulary: Vocabulary, tmp_path: Path) -> None:
    styled = vocabulary.with_styles(["coco"])
    styled.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json").styles == ("coco",)
