import math
from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.decoding import Constraints, DecodingOptions, Hypothesis
from captioner.decoding.search import search
from captioner.vocabulary import END, PAD, START, UNKNOWN
from tests.decoding.table import (
    Table,
    TableStepper,
    all_captions,
    log_prob,
    plain_beam_search,
    plain_greedy,
    score,
)

NONE: frozenset[int] = frozenset()


def run(
    tables: list[Table], options: DecodingOptions, endings: frozenset[int] = NONE, **more: Any
) -> list[list[Hypothesis]]:
    constraints = Constraints(
        tables[0].vocab_size,
        min_length=options.min_length,
        no_repeat_ngram=options.no_repeat_ngram,
        repeat_words=options.repeat_words,
        forbidden_endings=endings,
    )
    return search(TableStepper(tables), options, constraints, **more)


def assert_consistent(table: Table, hypothesis: Hypothesis, options: DecodingOptions) -> None:
    """What a hypothesis says about itself is what the table says about its words."""
    words = hypothesis.words
    caption = (*words, END) if hypothesis.finished else words
    assert hypothesis.log_prob == pytest.approx(log_prob(table, caption), abs=1e-9)
    assert hypothesis.score == pytest.approx(score(table, caption, options), abs=1e-9)
    assert hypothesis.word_log_probs == tuple(
        float(table.log_probs(words[:i])[word]) for i, word in enumerate(words)
    )
    assert hypothesis.attention is not None
    assert hypothesis.attention.shape == (len(words), 3)
    for i, looked in enumerate(hypothesis.attention):
        np.testing.assert_array_equal(looked, table.attention(words[:i]))


@st.composite
def problems(
    draw: st.DrawFn, max_beam_size: int = 6
) -> tuple[list[Table], DecodingOptions, frozenset[int]]:
    vocab_size = draw(st.integers(5, 8))
    beam_size = draw(st.integers(1, max_beam_size))
    max_length = draw(st.integers(1, 4))
    options = DecodingOptions(
        beam_size=beam_size,
        alternatives=draw(st.integers(1, beam_size)),
        max_length=max_length,
        min_length=draw(st.integers(0, max_length)),
        length_penalty=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, -0.5, -2.0])),
        no_repeat_ngram=draw(st.integers(0, 3)),
        repeat_words=draw(st.booleans()),
    )
    endings = draw(st.frozensets(st.integers(UNKNOWN + 1, vocab_size - 1)))
    rounded, end_bias = draw(st.booleans()), draw(st.sampled_from([-3.0, 0.0, 3.0]))
    seeds = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
    return (
        [Table(seed, vocab_size, rounded=rounded, end_bias=end_bias) for seed in seeds],
        options,
        endings,
    )


@settings(max_examples=400, deadline=None)
@given(problems())
def test_search_does_what_it_documents(
    problem: tuple[list[Table], DecodingOptions, frozenset[int]],
) -> None:
    tables, options, endings = problem
    for table, hypotheses in zip(tables, run(tables, options, endings), strict=True):
        expected = plain_beam_search(table, options, endings)
        assert [(hypothesis.words, hypothesis.finished) for hypothesis in hypotheses] == expected
        assert len({hypothesis.words for hypothesis in hypotheses}) == len(hypotheses)
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)
        for hypothesis in hypotheses:
            assert_consistent(table, hypothesis, options)


@settings(max_examples=200, deadline=None)
@given(problems(), st.integers(1, 10), st.none() | st.floats(-15, 0))
def test_wide_beam_finds_the_n_best_of_all_captions(
    problem: tuple[list[Table], DecodingOptions, frozenset[int]],
    alternatives: int,
    least: float | None,
) -> None:
    """Of those that are probable enough, if a log-probability is required."""
    tables, options, endings = problem
    required = None if least is None else np.full(len(tables), least)
    tables = [
        Table(t.seed, min(t.vocab_size, 7), rounded=t.rounded, end_bias=t.end_bias) for t in tables
    ]
    endings = frozenset(word for word in endings if word < tables[0].vocab_size)
    sequences = (tables[0].vocab_size - UNKNOWN - 1) ** options.max_length
    options = replace(
        options, beam_size=max(sequences + 1, alternatives), alternatives=alternatives
    )
    found = run(tables, options, endings, least=required)
    for table, hypotheses in zip(tables, found, strict=True):
        captions = [
            caption
            for caption in all_captions(table, options, endings)
            if least is None or log_prob(table, caption) >= least
        ]
        if not captions:
            assert not any(hypothesis.finished for hypothesis in hypotheses)
            continue
        best = sorted((score(table, caption, options) for caption in captions), reverse=True)[
            :alternatives
        ]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx(best, abs=1e-9)
        assert {(*hypothesis.words, END) for hypothesis in hypotheses} <= set(captions)


@settings(deadline=None)
@given(problems(max_beam_size=1))
def test_beam_of_one_is_greedy(
    problem: tuple[list[Table], DecodingOptions, frozenset[int]],
) -> None:
    tables, options, endings = problem
    found = [(only.words, only.finished) for (only,) in run(tables, options, endings)]
    assert found == [plain_greedy(table, options, endings) for table in tables]


@settings(deadline=None)
@given(problems(), st.booleans())
def test_a_caption_does_not_depend_on_its_batch_mates(
    problem: tuple[list[Table], DecodingOptions, frozenset[int]], sample: bool
) -> None:
    tables, options, endings = problem
    if sample:
        options = replace(options, sample=True, seed=5, temperature=1.5, top_k=3, top_p=0.9)
    together = run(tables, options, endings)
    alone = [run([table], options, endings, first_image=i)[0] for i, table in enumerate(tables)]
    assert together == alone
    for mine, own in zip(chain(*together), chain(*alone), strict=True):
        np.testing.assert_array_equal(mine.attention, own.attention)


@settings(max_examples=200, deadline=None)
@given(problems(), st.data())
def test_a_required_log_prob_drops_only_what_falls_short(
    problem: tuple[list[Table], DecodingOptions, frozenset[int]], data: st.DataObject
) -> None:
    tables, options, endings = problem
    least = np.array([data.draw(st.floats(-20, 0)) for _ in tables])
    short = run(tables, options, endings, least=least)
    for needed, (best, *_), (early, *_) in zip(
        least, run(tables, options, endings), short, strict=True
    ):
        if best.finished and best.log_prob >= needed:
            assert early == best
        else:
            assert not early.finished or early.log_prob >= needed


def test_a_search_that_is_certain_to_fall_short_ends() -> None:
    stepper = TableStepper([Table(1, 8, end_bias=-20)])
    least = np.array([-1e-3])
    search(stepper, DecodingOptions(beam_size=2, max_length=6), Constraints(8), least=least)
    assert len(stepper.shapes) == 1


def test_images_that_are_done_are_dropped_and_the_others_go_on() -> None:
    short, long = Table(1, 8, end_bias=20), Table(2, 8, end_bias=-20)
    stepper = TableStepper([short, long, short])
    options = DecodingOptions(beam_size=2, max_length=6)
    hypotheses = search(stepper, options, Constraints(8))
    assert [len(best.words) for (best,) in hypotheses] == [1, 6, 1]
    assert [images for images, _, _ in stepper.shapes] == [3, 3, 1, 1, 1, 1, 1]


def test_no_more_words_are_asked_for_than_can_matter() -> None:
    stepper = TableStepper([Table(1, 500)])
    search(stepper, DecodingOptions(beam_size=3, max_length=5), Constraints(500))
    assert max(k for _, _, k in stepper.shapes) == 3 + 4


def test_beams_that_cannot_win_are_dropped() -> None:
    table = Table(0, 8)
    table.write((), {4: -0.1, 5: -3, 6: -4, 7: -5})
    table.write((4,), {END: -1, 4: -1, 5: -2, 6: -2})
    stepper = TableStepper([table])
    ((best,),) = search(stepper, DecodingOptions(beam_size=4, max_length=5), Constraints(8))
    assert best.words == (4,)
    assert [beams for _, beams, _ in stepper.shapes] == [1, 4]


def test_a_beam_goes_on_while_a_longer_caption_could_still_win() -> None:
    table = Table(0, 6)
    table.write((), {4: -1, 5: -2})
    table.write(
        (4,), {END: 0}
    )  # score -1 / 2; the other beam's would be -2 / 3 after its next word, but -2 / 6 in the end
    for length in range(1, 6):
        table.write((5,) * length, {5: 0} if length < 5 else {END: 0})
    options = DecodingOptions(beam_size=2, max_length=5, length_penalty=1, no_repeat_ngram=0)
    ((best,),) = run([table], options)
    assert best.words == (5,) * 5
    assert best.score == pytest.approx(-2 / 6)


def test_a_beam_goes_on_while_the_next_end_could_still_win() -> None:
    table = Table(0, 6)
    table.write((), {4: -1, 5: -1})
    table.write(
        (4,), {END: -0.75}
    )  # score -1.75 * 2; the other's is -1 * 3, and would be -1 * 4 a word later
    table.write((5,), {5: 0})
    table.write((5, 5), {END: 0})
    options = DecodingOptions(beam_size=2, max_length=5, length_penalty=-1)
    ((best,),) = run([table], options)
    assert best.words == (5, 5)


def test_special_words_are_never_generated_however_probable() -> None:
    table = Table(0, 6)
    for words in ((), (4,), (5,), (4, 4), (4, 5), (5, 4), (5, 5)):
        table.write(words, {PAD: -0.9, START: -1.6, UNKNOWN: -1.2, END: -14, 4: -3, 5: -3.2})
    for options in (
        DecodingOptions(beam_size=1, max_length=2, no_repeat_ngram=0),
        DecodingOptions(beam_size=3, max_length=2, no_repeat_ngram=0),
        DecodingOptions(sample=True, seed=0, alternatives=20, max_length=2, no_repeat_ngram=0),
    ):
        (hypotheses,) = run([table], options)
        assert {word for hypothesis in hypotheses for word in hypothesis.words} <= {4, 5}
        assert all(len(hypothesis.words) == 2 for hypothesis in hypotheses)


@pytest.mark.parametrize("sample", [False, True])
def test_best_unfinished_caption_is_given_where_none_can_finish(sample: bool) -> None:
    table = Table(3, 7)
    options = DecodingOptions(
        beam_size=4, max_length=3, alternatives=2, sample=sample, seed=1 if sample else None
    )
    (hypotheses,) = run([table], options, frozenset({4, 5, 6}))
    assert len(hypotheses) == 2
    assert hypotheses[0].score >= hypotheses[1].score
    for hypothesis in hypotheses:
        assert not hypothesis.finished
        assert len(hypothesis.words) == 2  # a third word would be an ending
        assert_consistent(table, hypothesis, options)


def test_a_caption_that_can_neither_go_on_nor_end_is_given_as_it_is() -> None:
    (only,) = run(
        [Table(3, 6)], DecodingOptions(beam_size=2, max_length=9, min_length=9, no_repeat_ngram=1)
    )[0]
    assert not only.finished
    assert sorted(only.words) == [4, 5]  # each word once, then nothing is left


def test_end_is_counted_at_the_maximum_length() -> None:
    table = Table(4, 40, end_bias=-8)  # END is far down the list of every beam
    (only,) = run([table], DecodingOptions(beam_size=2, max_length=3))[0]
    assert only.finished
    assert len(only.words) == 3
    assert only.log_prob == pytest.approx(log_prob(table, (*only.words, END)))


def test_length_penalty_lengthens_captions() -> None:
    tables = [Table(seed, 8, end_bias=1.5) for seed in range(30)]
    lengths = [
        sum(
            len(best.words)
            for (best,) in run(
                tables, DecodingOptions(beam_size=8, max_length=6, length_penalty=penalty)
            )
        )
        for penalty in (-2.0, 0.0, 1.0, 3.0)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[1] < lengths[3]


def test_empty_captions_only_where_they_are_allowed() -> None:
    tables = [Table(1, 6, end_bias=20)]
    assert run(tables, DecodingOptions(min_length=0))[0][0].words == ()
    assert len(run(tables, DecodingOptions(min_length=1))[0][0].words) == 1


def test_without_attention_there_are_no_maps() -> None:
    stepper = TableStepper([Table(1, 6)], attention=False)
    ((only,),) = search(stepper, DecodingOptions(max_length=3), Constraints(6))
    assert only.attention is None


@pytest.mark.parametrize("options", [DecodingOptions(), DecodingOptions(sample=True)])
def test_no_images_no_captions(options: DecodingOptions) -> None:
    stepper = TableStepper([])
    assert search(stepper, options, Constraints(6)) == []
    assert stepper.shapes == []


def test_samples_follow_the_tables_probabilities() -> None:
    table = Table(7, 7, end_bias=1)
    draws = 20_000
    options = DecodingOptions(
        sample=True, seed=3, alternatives=draws, max_length=2, no_repeat_ngram=0
    )
    (hypotheses,) = run([table], options)
    assert len(hypotheses) == draws
    drawn = Counter(hypothesis.words for hypothesis in hypotheses)

    def share(words: tuple[int, ...]) -> float:
        """The probability of the words, and of END if drawn, renormalised over allowed words."""
        product = 1.0
        for i, word in enumerate((*words, END)[: options.max_length]):
            allowed = np.exp(table.log_probs(words[:i]).astype(float))[
                [END, 4, 5, 6] if i else [4, 5, 6]
            ]
            product *= math.exp(table.log_probs(words[:i])[word]) / allowed.sum()
        return product

    expected = {
        caption[:-1]: share(caption[:-1]) * draws for caption in all_captions(table, options, NONE)
    }
    assert sum(expected.values()) == pytest.approx(draws)
    chi_square = sum((drawn[words] - count) ** 2 / count for words, count in expected.items())
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
    for hypothesis in hypotheses[:50]:
        assert_consistent(table, hypothesis, options)


def test_samples_are_repeatable_and_differ_by_seed_image_and_draw() -> None:
    table, options = (
        Table(1, 50, end_bias=-9),
        DecodingOptions(sample=True, alternatives=4, max_length=8, seed=1),
    )
    first = run([table, table], options)
    assert run([table, table], options) == first
    captions = (
        first[0]
        + first[1]
        + run([table], replace(options, seed=2))[0]
        + run([table], options, first_image=9)[0]
    )
    assert len({hypothesis.words for hypothesis in captions}) == 16
    unseeded = replace(options, seed=None)
    assert run([table], unseeded) != run([table], unseeded)


def test_first_sample_does_not_depend_on_how_many_are_drawn() -> None:
    table, options = Table(1, 9), DecodingOptions(sample=True, max_length=8, seed=4)
    for seed in range(10):
        ((only,),) = run([table], replace(options, seed=seed))
        assert only in run([table], replace(options, seed=seed, alternatives=5))[0]


@settings(deadline=None)
@given(problems(), st.integers(0, 100))
def test_samples_keep_the_rules(
    problem: tuple[list[Table], DecodingOptions, frozenset[int]], seed: int
) -> None:
    tables, options, endings = problem
    options = replace(options, sample=True, seed=seed)
    for table, hypotheses in zip(tables, run(tables, options, endings), strict=True):
        captions = set(all_captions(table, options, endings))
        assert hypotheses
        for hypothesis in hypotheses:
            assert_consistent(table, hypothesis, options)
            assert not hypothesis.finished or (*hypothesis.words, END) in captions


@settings(deadline=None)
@given(problems(max_beam_size=1))
def test_sampling_from_the_single_best_word_is_greedy(
    problem: tuple[list[Table], DecodingOptions, frozenset[int]],
) -> None:
    tables, options, endings = problem
    greedy = run(tables, options, endings)
    assert run(tables, replace(options, sample=True, top_k=1, seed=0), endings) == greedy
    assert run(tables, replace(options, sample=True, top_p=1e-9, seed=0), endings) == greedy
    cold = replace(options, sample=True, temperature=1e-4, seed=0)
    assert tables[0].rounded or run(tables, cold, endings) == greedy
