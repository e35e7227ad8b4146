from pathlib import Path

import numpy as np
import pytest

from captioner.errors import DataError
from captioner.tags import TagTable
from captioner.tags.matching import forms, plural, synonyms

OWL = TagTable(
    ("great grey owl", "robin", "kite", "tabby", "tiger"),
    (("owl", "bird"), ("bird",), ("hawk", "bird"), ("cat",), ("tiger",)),
)


@pytest.fixture(scope="module")
def imagenet() -> TagTable:
    return TagTable.imagenet()


def test_imagenet_has_the_classes_of_the_classifiers_in_their_order(imagenet: TagTable) -> None:
    models = pytest.importorskip("torchvision.models")
    assert list(imagenet.classes) == models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tabby", ("cat", "animal")),
        ("Persian cat", ("cat", "animal")),
        ("minivan", ("car", "vehicle")),
        ("cab", ("taxi", "car", "vehicle")),
        ("Cardigan", ("dog", "animal")),
        ("cardigan", ("sweater",)),
        ("crane bird", ("bird", "animal")),
        ("crane", ("crane",)),
        ("kite", ("hawk", "bird", "animal")),
        ("plane", ("tool",)),  # a carpenter's
        ("pot", ("potted plant", "plant")),
        ("notebook", ("laptop", "computer")),
    ],
)
def test_imagenet_says_what_a_person_would(
    imagenet: TagTable, name: str, words: tuple[str, ...]
) -> None:
    assert imagenet.words[imagenet.classes.index(name)] == words


def test_the_words_of_imagenet_have_plurals_and_no_hyphens(imagenet: TagTable) -> None:
    for noun in imagenet.nouns:
        assert noun.replace(" ", "").isalpha() and noun.isascii() and noun.islower(), noun
        assert len(noun.split()) <= 3, noun
        assert plural(plural(noun)) == plural(noun) or plural(noun) != noun, noun


def test_wider_words_are_never_narrower_elsewhere(imagenet: TagTable) -> None:
    below = imagenet.below
    assert not (below & below.T).any()
    assert not below.diagonal().any()
    reached = (below.astype(int) @ below.astype(int)) > 0
    assert not (reached & ~below).any(), "what is below a word below it is below it too"


def test_synonyms_are_of_nouns_and_none_is_said_twice(imagenet: TagTable) -> None:
    assert set(synonyms()) <= set(imagenet.nouns)
    for noun, others in synonyms().items():
        assert len({noun, *others}) == len(others) + 1, noun
        for other in others:
            rest = {noun, *others} - {other}
            known = {form for word in rest for form in (word, plural(word))}
            assert not any(f" {form} " in f" {other} " for form in known), (
                f"{other!r} holds {noun!r} or a synonym"
            )
        assert all(
            other == " ".join(other.lower().split()) and "-" not in other for other in others
        )
        assert {noun, *others} <= forms(noun)


def test_nouns_and_memberships() -> None:
    assert OWL.nouns == ("owl", "bird", "hawk", "cat", "tiger")
    assert OWL.members.tolist() == [
        [1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert OWL.own.sum(1).tolist() == [1] * 5
    assert [OWL.nouns[noun] for noun in OWL.own.argmax(1)] == [
        "owl",
        "bird",
        "hawk",
        "cat",
        "tiger",
    ]
    assert [(int(a), int(b)) for a, b in np.argwhere(OWL.below)] == [(1, 0), (1, 2)]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    OWL.save(tmp_path / "tags.tsv")
    assert TagTable.load(tmp_path / "tags.tsv") == OWL


def test_a_class_without_a_noun_goes_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "tags.tsv"
    path.write_text(
        "index\tclass\tnoun\tmore general\n0\tRed  Bus\n1\tOak\t\ttree, plant\n", encoding="utf-8"
    )
    assert TagTable.load(path).words == (("red bus",), ("oak", "tree", "plant"))
    assert TagTable.of_classes(["Red  Bus", "oak"]).words == (("red bus",), ("oak",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not the header"),
        ("class\tnoun\n", "not the header"),
        ("index\tclass\tnoun\tmore general\n1\ttabby\tcat\n", "line 2 should have the index 0"),
        ("index\tclass\tnoun\tmore general\n0\n", "line 2 .* 2 to 4 columns"),
        ("index\tclass\tnoun\tmore general\n0\ttabby\tcat\tanimal\tpet\n", "2 to 4 columns"),
        ("index\tclass\tnoun\tmore general\n0\ttabby\tCat\n", "'Cat' is not a lower-case noun"),
        ("index\tclass\tnoun\tmore general\n0\ttabby\tcat\tpet, \n", "'' is not a lower-case noun"),
        ("index\tclass\tnoun\tmore general\n0\ttabby\tcat\tcat\n", "a word twice"),
        ("index\tclass\tnoun\tmore general\n0\ttabby\n1\ttabby\n", "duplicate class 'tabby'"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "tags.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=reason) as caught:
        TagTable.load(path)
    assert str(path) in str(caught.value) and "index, class, noun, more general" in str(
        caught.value
    )


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the tag table"):
        TagTable.load(tmp_path / "none.tsv")


def test_each_class_needs_words() -> None:
    with pytest.raises(ValueError, match="2 classes, but words for 1"):
        TagTable(("a", "b"), (("a",),))
    with pytest.raises(ValueError, match="'a' has no noun"):
        TagTable(("a",), ((),))
