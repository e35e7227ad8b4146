"""Tokenize as the official COCO scorer does (Penn Treebank tokens), in pure Python.

The official scorer splits captions with Stanford's PTBTokenizer (a Java program; options
`-preserveLines -lowerCase`) and then drops punctuation. This module gives the same tokens by one
regular expression whose alternatives were found by comparing outputs, so that scores computed here
can be compared with published ones:

    "A dog's T-shirt doesn't fit, Mr. Lee!"  ->  a dog 's t-shirt does n't fit mr. lee

The first alternative that matches wins, so specific ones come first. Tokens are matched in the
caption's original case, because case matters (`Miss.` is an abbreviation, `miss.` ends a sentence),
and lower-cased afterwards.

For other scripts it differs from the official scorer, to which a Chinese sentence is one word. Text
is normalized to NFC, so that composed and decomposed accents are equal. Each character of a script
without spaces between words is a token, together with its combining marks. Full stops and commas of
other scripts are dropped like English ones:

    "一只T恤。"  ->  一 只 t 恤
"""

import re
from functools import cache, lru_cache
from itertools import chain
from unicodedata import normalize

# Dropped by the official scorer after lower-casing (a double quote is `` or '' there). Its list has
# brackets in capitals (-LRB-), which no lower-cased token equals; so "-lrb-" and "-rrb-" are kept,
# here as there.
PUNCTUATION = frozenset(["''", '"', "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# Characters that are replaced before matching. Spaces around a sign separate it from its
# neighbours. All kinds of spaces become plain ones.
_REWRITTEN = str.maketrans(
    {
        **dict.fromkeys("\u2019\u201b", "'"),
        "\u2018": " ` ",
        **dict.fromkeys("\u201c\u201d\u201e\xab\xbb", '"'),
        **dict.fromkeys("\u2013\u2014\u2015", " -- "),
        "\u2026": " ... ",
        "\xa2": " cents ",
        "\xa3": " # ",
        **dict.fromkeys("\u20ac\xa4", " $ "),
        "\xbc": " 1/4 ",
        "\xbd": " 1/2 ",
        "\xbe": " 3/4 ",
        "\u2153": " 1/3 ",
        "\u2154": " 2/3 ",
        "\xad": None,
        # byte order mark, and marks of direction
        **dict.fromkeys(
            "\ufeff\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        ),
        # full stops, commas, question marks and the like: Armenian, Hebrew, Arabic, Indic, Myanmar,
        # Ethiopic, Khmer
        **dict.fromkeys(
            "\u055b\u055c\u055d\u055e\u0589\u05c3\u060c\u061b\u061f\u06d4\u0964\u0965\u104a\u104b"
            "\u1361\u1362\u1363\u1364\u1365\u1366\u1367\u17d4\u17d5\u17d6\u0e5a\u0e5b",
            " ",
        ),
    }
)

# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, bopomofo, Han.
_UNSPACED_BLOCKS = r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e59\u0e81-\u0edf\u1000-\u1049\u104c-\u109f"
_UNSPACED_BLOCKS += (
    r"\u1780-\u17d3\u17d7\u17db-\u17e9\u2e80-\u2fd5\u3005-\u3007\u3041-\u309f\u30a1-\u30fa"
)
_UNSPACED_BLOCKS += (
    r"\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
)
_UNSPACED_BLOCKS += r"\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003fffd"
_UNSPACED_MARKS = (
    r"\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059"
)
_UNSPACED_MARKS += (
    r"\u105e-\u1060\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d"
)
_UNSPACED_MARKS += r"\u17b4-\u17d3\u17dd\u3099\u309a\uff9e\uff9f"
_UNSPACED = re.compile(f"[{_UNSPACED_BLOCKS}][{_UNSPACED_MARKS}]*")
# Their punctuation; in other text, wide signs are tokens, as in the official scorer.
_WIDE_PUNCTUATION = re.compile(
    r"[\xb7\u3001-\u3003\u3008-\u3011\u3014-\u301f\u30fb"
    r"\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)

_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}

# Abbreviations that keep their period: in any case, only with a capital, and only before a number.
_ABBREVIATIONS = """
    adm al ala apr ariz assn asst atty aug ave bhd bldg blvd bros calif capt cf cie cmdr co col colo
    conn corp cpl ct dak dec del dept dr ens esq est etc ext feb fla fri ft ga gen gov hon inc ind
    insp intl jan jr jul jun kan ky lt ltd maj mar md messrs mich minn mlle mme mo mon mont mr mrs
    ms mt natl neb nev nov oct okla penn ph ph\\.d plc pres prof pty pvt rd rep rev sen sep sept sgt
    sr st supt tenn thu thurs tue tues univ va vs vt wed wis wyo
"""
_CAPITAL_ABBREVIATIONS = "ark ill la mass miss ore pa tex wash"
_NUMBER_ABBREVIATIONS = "art ca fig figs no nos op p pp prop"

# Capitalised words that begin a sentence: after a single letter's period they show that it ended
# one. At the end of a caption the official scorer looks at the next caption in its file, which
# usually begins with such a word.
_SENTENCE_STARTERS = """
    A About After An As At But Earlier He Her Here However If In It Last Many More Now Once One
    Other Our She Since So Some Such That The Their Then There These They This We What When While
    Yet You
"""


def _any_of(words: str) -> str:
    """Make one regular expression of the words of a text."""
    return "(?:" + "|".join(words.split()) + ")"


# A letter or digit (of any script, with its combining marks): everything that is neither ASCII or
# Latin-1 punctuation nor in the blocks of symbols, CJK punctuation, fullwidth forms or beyond the
# basic plane.
_SIGNS = r"\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7\u2000-\u2bff"
_SIGNS += (
    r"\u3000-\u3004\u3008-\u3030\ud800-\uf8ff\ufe00-\ufe6f"
    r"\uff00-\uff0f\uff1a-\uff20\U00010000-\U0010ffff"
)
_A = f"[^{_SIGNS}]"  # letter or digit
_L = f"[^0-9{_SIGNS}]"  # letter
_CLITIC = "'(?:[sSmMdD]|ll|LL|re|RE|ve|VE)(?![A-Za-z])"
_NOT = "[nN]'[tT]"

_TOKEN = "|".join(
    [
        # tags, addresses
        r"</?[A-Za-z]+/?>",
        r"https?://[^\s\"<>|(){}]+[^\s\"<>|(){}.,:;!?'-]",
        r"(?=[^\s\"<>|(){}@]+@)(?:[A-Za-z0-9]+-)*[A-Za-z0-9][^\s\"<>|(){}@]*@"
        r"(?:[^\s\"<>|().{}]+\.)*[^\s\"<>|().{}]+",
        r"[@#]+[A-Za-z][A-Za-z0-9_]*|##+|@@+",
        # a telephone's area code, dates
        r"\(\d{2,3}\)(?= ?\d{3,4}[- ]?\d{3,5})",
        r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}(?!\d)",
        # contractions: the second part, then the words that have one
        _CLITIC,
        rf"{_NOT}(?![A-Za-z])",
        rf"{_L}+?(?={_NOT})",
        r"(?i:can(?=not(?![\w'-])))|"
        r"(?i:(?:gon|wan)(?=na(?![\w'-]))|got(?=ta(?![\w'-]))|(?:lem|gim)(?=me(?![\w'-])))",
        rf"{_A}+(?:[-_]{_A}+)*(?={_CLITIC})",
        # apostrophes inside a word (o'clock, ma'am, d'oeuvre), before and after it
        rf"(?:{_A}+-)*[dDoOlL]'{_A}{{2,}}(?:-{_A}+)*|[A-HJ-XZn]'{_L}{{2}}{_A}*",
        rf"{_L}+[aeiouyAEIOUY]'[aeiouA-Z]{_A}*",
        r"[cC]'(?:mon|MON)(?![A-Za-z])",
        r"'[nN](?:'|(?![A-Za-z.]))|(?<!\d)'\d\d(?:s|(?!\.))(?!\w)|"
        r"'(?i:em|cause|till?)(?![A-Za-z])|'[tT](?=(?i:is|was)(?![A-Za-z]))",
        r"(?i:ol|somethin|dunkin)'(?![A-Za-z])|[lLdDjJ]'|[yY]'(?=[A-Za-z])",
        # abbreviations and initials
        rf"(?i:{_any_of(_ABBREVIATIONS)})\.(?![A-Za-z])",
        rf"(?:{_any_of(_CAPITAL_ABBREVIATIONS.title())}|"
        rf"{_any_of(_CAPITAL_ABBREVIATIONS.upper())})\.(?![A-Za-z])",
        rf"(?i:{_any_of(_NUMBER_ABBREVIATIONS)})\.(?= ?\d)",
        r"[A-Za-z](?:\.[A-Za-z])+(?:\.-[A-Za-z]+(?:\.[A-Za-z])*\.?|\.(?![A-Za-z0-9]))",
        rf"[A-Za-z]\.(?!$| {_any_of(_SENTENCE_STARTERS)}(?: |$))(?![A-Za-z0-9])",
        r"[A-Z]+(?:[&+][A-Z]+)+|[cC]\+\+|[A-Z]+\$",
        rf"{_A}+-[A-Za-z](?:\.[A-Za-z])+\.(?![A-Za-z0-9])",
        # words joined by slashes, fractions
        r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
        # numbers
        rf"\d+\.\d+(?:-{_A}+)+",
        r"[-+]?\d+(?:[.:,]\d+)+|[-+]\d+|[.,:]\d+(?:[.:,]\d+)*",
        # words: hyphenated, or glued together by a missing space ("ground.A")
        rf"{_L}{_A}*(?:[.!?]{_L}{_A}*)+|{_A}+(?:(?:-|_(?!_)){_A}+)*(?:\.(?=[,:;]))?",
        # signs
        r"[:;=]['-]?[()DPpoO](?![A-Za-z0-9])",
        r"-----+|--?-?-?|\.+|[!?]+|\*+|_+|''|``",
        r"[\x21-\x7e\xa1-\xbf\xd7\xf7\u2030-\u2bff"
        r"\u3001-\u3004\u3008-\u3030\uff01-\uff0f\uff1a-\uff20]",
        _UNSPACED.pattern,  # the rare ones, beyond the basic plane; all others are words
    ]
)

# The plain lower-case words that are not their own and only token.
_CONTRACTED = frozenset(["cannot", "gonna", "wanna", "gotta", "lemme", "gimme"])

_BRACKETS = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
)
_DROPPED_RUN = re.compile(r"--?-?-?|\.+")

# A token that depends on what follows the space after it: "plan b. The", "no. 5", "(555) 555-1234".
_REACHES_ON = re.compile(
    rf"(?<![A-Za-z0-9.])[A-Za-z]\. |(?i:{_any_of(_NUMBER_ABBREVIATIONS)})\. \d|\d\) \d"
)


def tokenize(caption: str) -> list[str]:
    """Split a caption into the official COCO scorer's tokens.

    Scripts without spaces between words are split into characters.

    Args:
        caption: One caption, raw. Line breaks count as spaces.

    Returns:
        Lower-case tokens without punctuation; an empty list for an empty caption.
    """
    if not caption.isascii():
        caption = normalize("NFC", caption).translate(_REWRITTEN)
        if _UNSPACED.search(caption):
            caption = _UNSPACED.sub(r" \g<0> ", _WIDE_PUNCTUATION.sub(" ", caption))
    if "&" in caption:
        for entity, character in _ENTITIES.items():
            caption = caption.replace(entity, character)
    pieces = caption.split()
    text = " ".join(pieces)
    if (". " in text or ") " in text) and _REACHES_ON.search(text):
        return _match(text)
    return list(chain.from_iterable(map(_tokens_of_piece, pieces)))


def touches(left: str, right: str) -> bool:
    """Return whether two tokens are written without a space, because of the script of one."""
    return not (left.isascii() and right.isascii()) and bool(
        _UNSPACED.match(left[-1]) or _UNSPACED.match(right)
    )


@lru_cache(maxsize=2**16)
def _tokens_of_piece(piece: str) -> tuple[str, ...]:
    """Tokenize text without spaces; as captions repeat words, nearly all calls are cache hits."""
    if piece.isascii() and piece.isalpha() and piece.islower() and piece not in _CONTRACTED:
        return (piece,)
    return tuple(_match(piece))


@cache
def _token() -> re.Pattern[str]:
    """Compile the expression of a token, on first use: that takes 20 ms, and few words need it."""
    return re.compile(_TOKEN)


def _match(text: str) -> list[str]:
    """Tokenize text whose words are separated by single spaces."""
    tokens: list[str] = _token().findall(text)
    lowered = [normalize("NFC", token.translate(_BRACKETS).lower()) for token in tokens]
    return [
        token for token in lowered if token not in PUNCTUATION and not _DROPPED_RUN.fullmatch(token)
    ]
