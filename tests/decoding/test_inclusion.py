import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.decoding import Constraints, DecodingOptions, Hypothesis
from captioner.decoding.inclusion import Inclusion, Phrase, can_include, find_phrases, of_each_image
from captioner.decoding.search import search
from captioner.errors import ConfigError
from captioner.vocabulary import END, SPECIAL_WORDS, UNKNOWN, Vocabulary
from tests.decoding.table import (
    Prefix,
    Table,
    TableStepper,
    log_prob,
    may_follow,
    repeats_word,
    score,
)

Problem = tuple[list[Table], DecodingOptions, frozenset[int], list[list[Phrase]]]


def inclusion_of(problem: Problem) -> Inclusion:
    tables, _, endings, phrases = problem
    return Inclusion(tables[0].vocab_size, phrases, endings)


def run(problem: Problem) -> list[list[Hypothesis]]:
    tables, options, endings, _ = problem
    constraints = Constraints(
        tables[0].vocab_size,
        min_length=options.min_length,
        no_repeat_ngram=options.no_repeat_ngram,
        repeat_words=options.repeat_words,
        forbidden_endings=endings,
        inclusion=inclusion_of(problem),
    )
    return search(TableStepper(tables), options, constraints)


def contains(words: Prefix, phrase: Phrase) -> bool:
    starts = range(len(words) - len(phrase) + 1)
    return any(all(words[i + j] in forms for j, forms in enumerate(phrase)) for i in starts)


def goes_on(prefix: Prefix, word: int, phrase: Phrase) -> bool:
    """Whether the word begins a phrase that isn't there yet, or continues one that is begun."""
    begun = (j for j in range(len(phrase)) if j <= len(prefix))
    return not contains(prefix, phrase) and any(
        word in phrase[j]
        and all(prefix[len(prefix) - j + i] in phrase[i] for i in range(j))
        and (j > 0 or prefix[-1:] != (word,))
        for j in begun
    )


def repeats(prefix: Prefix, word: int, options: DecodingOptions, endings: frozenset[int]) -> bool:
    """Whether the word repeats one that it may not, or ends n words in a row that were there."""
    if not options.repeat_words and repeats_word(prefix, word, endings):
        return True
    caption, n = (*prefix, word), options.no_repeat_ngram
    ngrams = [caption[i : i + n] for i in range(len(caption) - n + 1)] if n else []
    return ngrams[-1:] != [] and ngrams[-1] in ngrams[:-1]


def all_captions(
    table: Table, options: DecodingOptions, endings: frozenset[int], phrases: list[Phrase]
) -> list[tuple[float, Prefix]]:
    """Every caption that the rules allow and that contains the phrases, the best score first."""
    free = replace(options, no_repeat_ngram=0, repeat_words=True)
    longest = [p for p in phrases if not any(p != q and p in parts(q) for q in phrases)]

    def allowed(prefix: Prefix, word: int) -> bool:
        again = word != END and repeats(prefix, word, options, endings)
        return may_follow(prefix, word, free, endings) and (
            not again or any(goes_on(prefix, word, phrase) for phrase in longest)
        )

    found = []
    for length in range(options.max_length + 1):
        for words in product(range(UNKNOWN + 1, table.vocab_size), repeat=length):
            caption = (*words, END)
            if (
                all(contains(words, phrase) for phrase in phrases)
                and all(allowed(caption[:i], word) for i, word in enumerate(caption))
                and log_prob(table, caption) > -math.inf
            ):
                found.append((score(table, caption, options), caption))
    return sorted(found, reverse=True)


def parts(phrase: Phrase) -> list[Phrase]:
    return [phrase[i:j] for i in range(len(phrase)) for j in range(i + 1, len(phrase) + 1)]


@st.composite
def problems(
    draw: st.DrawFn,
    most_words: int = 4,
    longest: int = 4,
    most_beams: int = 3,
    rounded: bool = True,
) -> Problem:
    """Tables, options, forbidden endings, and phrases for each image that there is room for."""
    vocab_size = UNKNOWN + 1 + draw(st.integers(2, most_words))
    words = list(range(UNKNOWN + 1, vocab_size))
    max_length = draw(st.integers(2, longest))
    options = DecodingOptions(
        beam_size=draw(st.integers(1, most_beams)),
        max_length=max_length,
        min_length=draw(st.integers(0, max_length)),
        length_penalty=draw(st.sampled_from([0.0, 1.0, -1.0])),
        no_repeat_ngram=draw(st.integers(0, 3)),
        repeat_words=draw(st.booleans()),
    )
    endings = draw(st.frozensets(st.sampled_from(words), max_size=len(words) - 1))
    # Which words are forms of one another: two of them, or none.
    forms = (
        [frozenset(words[:2]), *(frozenset([w]) for w in words[2:])] if draw(st.booleans()) else []
    )
    forms = forms or [frozenset([word]) for word in words]
    phrase = st.lists(st.sampled_from(forms), min_size=1, max_size=3).map(tuple)
    tables, phrases = [], []
    sharp = draw(st.booleans()) and rounded
    for seed in draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=3)):
        tables.append(
            Table(seed, vocab_size, rounded=sharp, end_bias=draw(st.sampled_from([-3.0, 0.0, 3.0])))
        )
        mine = draw(st.lists(phrase, max_size=3))
        while Inclusion(vocab_size, [mine], endings).fewest > max_length:
            mine = mine[1:]
        phrases.append(mine)
    return tables, options, endings, phrases


@settings(max_examples=80, deadline=None)
@given(problems(), st.integers(1, 5))
def test_wide_beam_finds_the_n_best_of_all_captions_that_contain_the_phrases(
    problem: Problem, wanted: int
) -> None:
    tables, options, endings, phrases = problem
    sequences = (tables[0].vocab_size - UNKNOWN - 1) ** options.max_length
    options = replace(options, beam_size=sequences + wanted, alternatives=wanted)
    for table, mine, hypotheses in zip(
        tables, phrases, run((tables, options, endings, phrases)), strict=True
    ):
        best = all_captions(table, options, endings, mine)
        if not best:
            assert not any(hypothesis.finished for hypothesis in hypotheses)
            continue
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx(
            [s for s, _ in best[:wanted]], abs=1e-9
        )
        for hypothesis in hypotheses:
            assert (*hypothesis.words, END) in {caption for _, caption in best}
            assert hypothesis.log_prob == pytest.approx(
                log_prob(table, (*hypothesis.words, END)), abs=1e-9
            )


@settings(max_examples=150, deadline=None)
@given(problems(most_words=6, longest=8, rounded=False))
def test_however_narrow_the_beam_all_phrases_are_there(problem: Problem) -> None:
    tables, options, endings, phrases = problem
    # With all n-grams used up, or none left to end with, no caption could go on, whatever it must
    # contain.
    options = replace(options, no_repeat_ngram=0, repeat_words=True)
    for mine, hypotheses in zip(phrases, run((tables, options, endings, phrases)), strict=True):
        for hypothesis in hypotheses:
            assert hypothesis.finished
            assert options.min_length <= len(hypothesis.words) <= options.max_length
            assert not endings.intersection(hypothesis.words[-1:])
            assert all(contains(hypothesis.words, phrase) for phrase in mine)


@settings(max_examples=60, deadline=None)
@given(problems(most_words=6, longest=8, rounded=False), st.integers(2, 3))
def test_no_phrase_is_stuck_in_its_own_ngrams(problem: Problem, n: int) -> None:
    tables, options, _, phrases = problem
    options = replace(options, no_repeat_ngram=n, min_length=0)
    none: frozenset[int] = frozenset()
    for mine, hypotheses in zip(phrases, run((tables, options, none, phrases)), strict=True):
        for hypothesis in hypotheses:
            assert hypothesis.finished
            assert all(contains(hypothesis.words, phrase) for phrase in mine)


@settings(max_examples=40, deadline=None)
@given(problems(most_words=6, longest=6))
def test_a_caption_does_not_depend_on_its_batch_mates(problem: Problem) -> None:
    tables, options, endings, phrases = problem
    alone = [
        run(([table], options, endings, [mine]))[0]
        for table, mine in zip(tables, phrases, strict=True)
    ]
    assert run(problem) == alone


@settings(max_examples=40, deadline=None)
@given(problems(most_words=6, longest=6))
def test_images_that_include_nothing_get_the_captions_that_they_get_without(
    problem: Problem,
) -> None:
    tables, options, endings, phrases = problem
    mixed = [*phrases, *([] for _ in tables)]
    asked = (frozenset([UNKNOWN + 1]),)
    mixed[0] = mixed[0] or [asked] * (
        Inclusion(tables[0].vocab_size, [[asked]], endings).fewest <= options.max_length
    )
    found = run(([*tables, *tables], options, endings, mixed))[len(tables) :]
    plain = Constraints(
        tables[0].vocab_size,
        min_length=options.min_length,
        no_repeat_ngram=options.no_repeat_ngram,
        repeat_words=options.repeat_words,
        forbidden_endings=endings,
    )
    assert found == search(TableStepper(tables), options, plain)


def test_one_entry_holds_for_all_images() -> None:
    tables, options = (
        [Table(seed, 9) for seed in range(4)],
        DecodingOptions(beam_size=2, max_length=6),
    )
    phrase = (frozenset([4, 5]), frozenset([6]))
    found = run((tables, options, frozenset(), [[phrase]]))
    assert found == run((tables, options, frozenset(), [[phrase]] * 4))
    assert all(contains(best.words, phrase) for (best,) in found)


def test_any_form_will_do_and_the_best_is_taken() -> None:
    table = Table(0, 8)
    table.write((), {4: -1, 5: -2, 6: -1.5, 7: -9})
    table.write((5,), {END: -1})
    table.write((6,), {END: -1})
    options = DecodingOptions(beam_size=2, max_length=1)
    ((best,),) = run(([table], options, frozenset(), [[(frozenset([5, 6]),)]]))
    assert best.words == (6,)
    ((best,),) = run(([table], options, frozenset(), [[(frozenset([5]),)]]))
    assert best.words == (5,)


def test_a_phrase_inside_another_needs_no_words_of_its_own() -> None:
    light, traffic = frozenset([4]), frozenset([5, 6])
    assert Inclusion(8, [[(light,), (traffic, light), (light,)]]).fewest == 2
    assert Inclusion(8, [[(light,), (traffic,)], [(light,)]]).fewest == 2
    assert Inclusion(8, [[]]).fewest == 0
    assert Inclusion(8, [[(light,)]], [4]).fewest == 2, "a caption may not end with it"
    assert Inclusion(8, [[(light,), (traffic,)]], [4, 5]).fewest == 2


VOCABULARY = Vocabulary(
    [*SPECIAL_WORDS, "a", "cat", "cats", "traffic", "light", "lights", "t-shirt", "'s", "dog"]
)


def test_words_are_looked_up_in_all_their_forms() -> None:
    index = VOCABULARY.index
    cat, light = {index("cat"), index("cats")}, {index("light"), index("lights")}
    assert find_phrases(["Cat", "cats"], VOCABULARY) == [(cat,), (cat,)]
    assert find_phrases(["traffic  lights"], VOCABULARY) == [({index("traffic")}, light)]
    assert find_phrases(["T-shirts", "dog's"], VOCABULARY) == [
        ({index("t-shirt")},),
        ({index("dog")}, {index("'s")}),
    ]
    assert find_phrases([], VOCABULARY) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["catt"],
            "doesn't know the word catt; the closest words that it knows: cat, cats. Include",
        ),
        (["traffic warden"], "doesn't know the word warden"),
        (["xylophone"], "doesn't know the word xylophone or any word with a similar"),
        (["<unk>"], "doesn't know the word <unk>"),
        ([""], "include has ''; expected words, such as cat"),
        (["."], "include has '.'; expected words"),
    ],
)
def test_words_that_the_model_lacks_are_refused_with_the_nearest(
    words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        find_phrases(words, VOCABULARY)
    assert not all(can_include(word, VOCABULARY) for word in words)


def test_words_that_the_model_knows_in_any_form_can_be_included() -> None:
    assert all(can_include(text, VOCABULARY) for text in ("Cat", "traffic  lights", "T-shirts"))


def test_more_words_than_a_caption_has_room_for_are_refused() -> None:
    options = DecodingOptions(include=("cat", "traffic light"), max_length=3)
    inclusion = Constraints.from_options(options, VOCABULARY).inclusion
    assert inclusion is not None
    assert inclusion.fewest == 3
    with pytest.raises(
        ConfigError,
        match=r"has at least 3 words; max_length is 2\. Raise max_length, or include fewer",
    ):
        Constraints.from_options(replace(options, max_length=2), VOCABULARY)


def test_nothing_to_include_is_no_constraint() -> None:
    assert Constraints.from_options(DecodingOptions(), VOCABULARY).inclusion is None
    assert Constraints.from_options(DecodingOptions(), VOCABULARY, [(), ()]).inclusion is None
    inclusion = Constraints.from_options(DecodingOptions(), VOCABULARY, [(), ("dog",)]).inclusion
    assert inclusion is not None
    assert inclusion.asks(np.array([0, 1])).tolist() == [False, True]


def test_a_list_for_each_image_is_told_from_one_for_all() -> None:
    assert of_each_image(["cat"], 1) is None
    assert of_each_image([], 3) is None
    assert of_each_image(None, 3) is None
    assert of_each_image([["cat"], []], 2) == [["cat"], []]
    with pytest.raises(ConfigError, match="include has 2 lists for 3 images"):
        of_each_image([["cat"], []], 3)
    with pytest.raises(ConfigError, match="2 lists for an unknown number of images"):
        of_each_image([["cat"], []], None)
