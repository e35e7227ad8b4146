"""Find words that are forms of one another: cat and cats, ride and riding, man and men.

`base` strips plural and verb endings with the first and the last step of the English Snowball
stemmer (Porter 2001, "Snowball: A language for stemming algorithms"). It skips the steps between
them, which would merge skateboard and skateboarder: a caption with a skateboarder doesn't mention a
skateboard.
"""

import re
from functools import lru_cache

from captioner.vocabulary import Vocabulary, is_special

# Irregular forms that occur in captions; words in -man have plurals in -men.
_IRREGULAR = {
    "people": "person",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "buses": "bus",
    "skis": "ski",
    "tutus": "tutu",
    "goes": "go",
    "does": "do",
    **{
        f"{stem}ves": f"{stem}f"
        for stem in ("lea", "shel", "scar", "wol", "cal", "loa", "hal", "hoo")
    },
    **{f"{stem}ves": f"{stem}fe" for stem in ("kni", "li", "wi")},
}
_INVARIANT = frozenset(
    {
        "this",
        "his",
        "its",
        "clothes",
        "clothing",
        "evening",
        "inning",
        "outing",
        "herring",
        "earring",
    }
)

_VOWEL = "[aeiouy]"
_VERB_ENDING = re.compile("(?:ing|(?<!e)ed)$")
_SHORT_SYLLABLE = re.compile("(^[aeiouy][^aeiouy]|[^aeiouy][aeiouy][^aeiouywx])$")
_FIRST_SYLLABLE = re.compile(f"{_VOWEL}[^aeiouy]")
_TWO_SYLLABLES = re.compile(f"{_VOWEL}[^aeiouy].*?{_VOWEL}[^aeiouy]")


def base(word: str) -> str:
    """Strip plural and verb endings from a word.

    Args:
        word: The word, in lower case as in a vocabulary.

    Returns:
        The stem that the forms of the word share; not always a word itself.
    """
    if word in _INVARIANT:
        return word
    if word.endswith("men") and len(word) > 2:
        word = f"{word[:-3]}man"
    word = _without_s(_IRREGULAR.get(word, word))
    if word in _INVARIANT:
        return word
    word = _without_verb_ending(word)
    if word.endswith("ie") and len(word) > 3:  # cookie, like cookies without the s
        return f"{word[:-2]}y"
    return word.removesuffix("e") if _ends_in_mute_e(word) else word


@lru_cache(maxsize=8)
def groups(vocabulary: Vocabulary) -> dict[str, tuple[int, ...]]:
    """Find the words of a vocabulary that are forms of one another.

    Args:
        vocabulary: The words.

    Returns:
        The ids of the words of each base, in ascending order. Each word is in one group; special
        words are in none.
    """
    found: dict[str, list[int]] = {}
    for index, word in enumerate(vocabulary.words):
        if not is_special(word):
            found.setdefault(base(word), []).append(index)
    return {key: tuple(ids) for key, ids in found.items()}


def _without_s(word: str) -> str:
    if word.endswith("ies"):
        return f"{word[:-3]}y" if len(word) > 4 else word[:-1]
    if word.endswith("sses"):
        return word[:-2]
    # Not after a word's only vowel: gas, yes; but shoes, cats.
    if word.endswith("s") and word[-2:] not in ("ss", "us", "'s") and re.search(_VOWEL, word[:-2]):
        return word[:-1]
    return word


def _without_verb_ending(word: str) -> str:
    if word.endswith("ied") and len(word) > 3:
        return f"{word[:-3]}y" if len(word) > 4 else word[:-1]
    ending = _VERB_ENDING.search(word)
    if ending is None or not re.search(_VOWEL, word[: ending.start()]):
        return word
    stem = word[: ending.start()]
    if stem.endswith(("at", "bl", "iz")):
        return f"{stem}e"
    if re.search(r"([bdfgmnprt])\1$", stem):
        return stem[:-1]
    return (
        f"{stem}e"
        if _SHORT_SYLLABLE.search(stem) and not _FIRST_SYLLABLE.search(stem[:-1])
        else stem
    )


def _ends_in_mute_e(word: str) -> bool:
    stem = word.removesuffix("e")
    if stem == word or not _FIRST_SYLLABLE.search(stem):
        return False
    return bool(_TWO_SYLLABLES.search(stem)) or not _SHORT_SYLLABLE.search(stem)
