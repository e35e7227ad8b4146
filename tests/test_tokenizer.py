"""The tokenizer against tokens that PTBTokenizer 3.4.1 was seen to give, as the official COCO scorer calls it."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.tokenizer import PUNCTUATION, tokenize

# caption -> tokens of the official scorer, separated by spaces
OFFICIAL = {
    "A man rides a horse.": "a man rides a horse",
    "": "",
    " \n ": "",
    "...": "",
    "A dog\non a boat . ": "a dog on a boat",
    # contractions
    "it's the dog's ball": "it 's the dog 's ball",
    "DON'T CAN'T I'M": "do n't ca n't i 'm",
    "can't won't you're they've he'll she'd isn't.": "ca n't wo n't you 're they 've he 'll she 'd is n't",
    "he'd've shouldn't've": "he 'd 've should n't 've",
    "cannot gonna gotta wanna lemme gimme": "can not gon na got ta wan na lem me gim me",
    "cannot-do gonnago": "cannot-do gonnago",
    "don’t dog’s it’s": "do n't dog 's it 's",  # noqa: RUF001
    "dogs' ball mens' kids'.": "dogs ball mens kids",
    "rock 'n' roll rock'n'roll": "rock 'n' roll rock 'n' roll",
    "o'clock d'oeuvre Pe'e O'Brien ma'am c'mon": "o'clock d'oeuvre pe'e o'brien ma'am c'mon",
    "y'all 'em 'til 'tis '80s": "y' all 'em 'til 't is '80s",
    "80's A's CD's t-shirt's": "80 's a 's cd 's t-shirt 's",
    "bird's-eye-view": "bird 's eye-view",
    "do n't dog 's": "do n't dog 's",
    # quotes and brackets
    "\"selfie\" 'no peddling' “x” ``y''": "selfie no peddling x y",
    "(a man) [b] {c}": "-lrb- a man -rrb- -lsb- b -rsb- -lcb- c -rcb-",
    # hyphens and dashes
    "T-shirt one-and-a-half-year-old a_b": "t-shirt one-and-a-half-year-old a_b",
    "beach--kite a -- b men - women -ependent old-": "beach kite a b men women ependent old",
    "a—b – c": "a b c",  # noqa: RUF001
    # periods
    "Mr. Smith, St. John": "mr. smith st. john",
    "the U.S. flag": "the u.s. flag",
    "in the u.s.": "in the u.s.",
    "D.V.D turkey U.S.A S.C.U.B.A. R.V.": "d.v.d turkey u.s.a s.c.u.b.a. r.v.",
    "a t.v. on a table": "a t.v. on a table",
    "a girl on the sofa and a miss. Miss. Lee": "a girl on the sofa and a miss miss. lee",
    "J. Smith is plan b. The dog": "j. smith is plan b the dog",
    "No. 5 has no. dogs": "no. 5 has no dogs",
    "wait... what.. is…": "wait what is",
    "ground.A light next.stair.s": "ground.a light next.stair.s",
    "table.. .neck dog.": "table neck dog",
    # numbers
    "1,000 1.5 .5 -5 3/4 11.01.2009 10-29-2011": "1,000 1.5 .5 -5 3/4 11.01.2009 10-29-2011",
    "5:54pm. 23:58 1st 1950s 4x4 mp3 B-25": "5:54 pm 23:58 1st 1950s 4x4 mp3 b-25",
    "3 1/2 cups ½": "3 1/2 cups 1/2",
    "5'10\" tall": "5 10 tall",
    # other signs
    "tub/shower schoolbus/boat/house mirror/ cabinet": "tub/shower schoolbus/boat/house mirror / cabinet",
    "AT&T at&t R&B b & b &amp;": "at&t at & t r&b b & b &",
    "$5.50 £5 €5 5¢ 5%": "$ 5.50 # 5 $ 5 5 cents 5 %",
    "#41 #hello @bob bob@x.com": "# 41 #hello @bob bob@x.com",
    "sink,toilet dog;cat dog:cat p;ayer": "sink toilet dog cat dog cat p ayer",
    "what?! dog!! dog?": "what ?! dog !! dog",
    "a*b a + b = c": "a * b a + b = c",
    "http://www.x.com statefarm.com.": "http://www.x.com statefarm.com",
    # other scripts
    "Café naïve ÉCLAIR": "café naïve éclair",
    "日本語 猫": "日本語 猫",
    "a😀b 20°": "a b 20 °",
}


@pytest.mark.parametrize("caption", OFFICIAL)
def test_tokens_equal_the_official_scorers(caption: str) -> None:
    assert tokenize(caption) == OFFICIAL[caption].split()


@settings(deadline=None)
@given(st.text())
def test_tokens_of_any_text_are_lower_case_words_without_spaces_or_punctuation(caption: str) -> None:
    for token in tokenize(caption):
        assert token
        assert token == token.lower()
        assert not set(token) & set(" \t\n\r")
        assert token not in PUNCTUATION


@settings(deadline=None)
@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=8), max_size=12))
def test_plain_words_are_their_own_tokens(words: list[str]) -> None:
    if not {"cannot", "gonna", "gotta", "wanna", "lemme", "gimme"} & set(words):
        assert tokenize(" ".join(words)) == words


@settings(deadline=None)
@given(st.text("abAB.,'-/& 1$()!", max_size=40))
def test_spaces_around_a_caption_change_nothing(caption: str) -> None:
    assert tokenize(f"  {caption}\n") == tokenize(caption)


def test_importing_the_tokenizer_needs_neither_nltk_nor_torch() -> None:
    code = "import sys, captioner.tokenizer; print(sorted({'nltk', 'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
