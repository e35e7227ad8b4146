import pytest
from nltk.stem import SnowballStemmer

from captioner.tags import TagTable
from captioner.tags.matching import NounMatcher, forms, plural, synonyms

# Those whose stem differs from their plural's: irregular ones, and endings that the stemmer takes
# for others.
IRREGULAR = {
    *(
        "bookshelf",
        "calf",
        "gentleman",
        "goose",
        "knife",
        "loaf",
        "man",
        "meatloaf",
        "mouse",
        "ox",
        "person",
    ),
    *("scarf", "shelf", "wolf", "woman"),
    *("bra", "bureau", "lens", "mantis", "menu", "pc", "pj", "rv", "tv"),
}


@pytest.fixture(scope="module")
def matcher() -> NounMatcher:
    return NounMatcher(TagTable.imagenet())


def named(matcher: NounMatcher, *captions: str) -> set[str]:
    nouns = TagTable.imagenet().nouns
    return {noun for noun, is_named in zip(nouns, matcher.named(captions), strict=True) if is_named}


def test_plurals_have_the_stem_of_their_nouns() -> None:
    stem = SnowballStemmer("english").stem
    words = {
        *TagTable.imagenet().nouns,
        *(other for others in synonyms().values() for other in others),
    }
    for phrase in words:
        if " of " not in phrase and "and" not in phrase.split():
            *before, last = phrase.split()
            *same, inflected = plural(phrase).split()
            assert before == same
            assert last in IRREGULAR or stem(inflected).removesuffix("e") == stem(
                last
            ).removesuffix("e"), phrase


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("cat", "cats"),
        ("bus", "buses"),
        ("bench", "benches"),
        ("box", "boxes"),
        ("berry", "berries"),
        ("monkey", "monkeys"),
        ("knife", "knives"),
        ("bookshelf", "bookshelves"),
        ("goose", "geese"),
        ("sheep", "sheep"),
        ("goldfish", "goldfish"),
        ("jeans", "jeans"),
        ("piano", "pianos"),
        ("roof", "roofs"),
        ("giraffe", "giraffes"),
        ("fire truck", "fire trucks"),
        ("bottle of wine", "bottles of wine"),
        ("mashed potatoes", "mashed potatoes"),
    ],
)
def test_plurals(noun: str, expected: str) -> None:
    assert plural(noun) == expected


@pytest.mark.parametrize(
    ("noun", "other"),
    [
        ("couch", "sofas"),
        ("bicycle", "bike"),
        ("motorcycle", "motorbikes"),
        ("airplane", "plane"),
        ("airplane", "aeroplane"),
        ("airplane", "jet"),
        ("television", "tv"),
        ("cell phone", "cellphone"),
        ("cell phone", "phones"),
        ("cat", "kittens"),
        ("refrigerator", "fridge"),
    ],
)
def test_what_people_also_say_is_a_form(noun: str, other: str) -> None:
    assert other in forms(noun)


def test_captions_name_nouns(matcher: NounMatcher) -> None:
    assert {"cat", "couch", "animal"} <= named(matcher, "Two kittens sleep on a SOFA.")
    assert {"hot dog", "food"} <= named(matcher, "a hot-dog, with mustard")
    assert "hot dog" not in named(matcher, "a hot day for a dog")
    assert "cat" not in named(matcher, "a category of catfish")
    assert {"teddy bear", "bear"} <= named(matcher, "A boy's teddy bears")
    assert {"television", "dog"} <= named(matcher, "a man watches TV", "a dog's bowl")
    assert named(matcher) == named(matcher, "") == set()


def test_who_names_a_kind_names_the_wider_word_and_not_the_other_way_round(
    matcher: NounMatcher,
) -> None:
    assert {"owl", "bird", "animal"} <= named(matcher, "an owl on a branch")
    assert "owl" not in named(matcher, "a bird on a branch")


def test_photos_are_matched_by_themselves(matcher: NounMatcher) -> None:
    rows = matcher.named_in([["a pizza"], ["a zebra", "an animal"]])
    assert rows.shape == (2, len(TagTable.imagenet().nouns))
    assert (rows[0] == matcher.named(["a pizza"])).all()
    assert not (rows[0] & rows[1]).any()


def test_one_noun_is_matched_as_all_are(matcher: NounMatcher) -> None:
    captions = ("two kittens on a sofa", "a hot-dog", "an animal", "a slice of pizza", "")
    for caption in captions:
        alone = [matcher.names(caption, noun) for noun in range(len(TagTable.imagenet().nouns))]
        assert alone == matcher.named([caption]).tolist()
