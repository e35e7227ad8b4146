"""Styles: captions begin with the requested start token, and contain no start token."""

from dataclasses import replace

import numpy as np
import pytest

from captioner.decoding import Constraints, DecodingOptions, Step
from captioner.decoding.forms import groups
from captioner.decoding.search import search
from captioner.errors import ConfigError
from captioner.vocabulary import SPECIAL_WORDS, START, Vocabulary
from tests.decoding.table import Table, TableStepper

STYLED = Vocabulary([*SPECIAL_WORDS, "a", "dog", "runs"]).with_styles(["coco", "own"])
OPTIONS = DecodingOptions(
    beam_size=3, alternatives=3, max_length=4, no_repeat_ngram=0, min_length=0
)


class FirstWords(TableStepper):
    """Notes which words captions begin with, which the table knows as START."""

    def step(
        self, parents: np.ndarray, words: np.ndarray, k: int, *, all_log_probs: bool = False
    ) -> Step:
        if not self.shapes:
            self.first = set(words.ravel().tolist())
            words = np.full_like(words, START)
        return super().step(parents, words, k, all_log_probs=all_log_probs)


def fond_of_starts(seed: int, vocab_size: int) -> Table:
    """A table to which start tokens of styles are the most probable words."""

    class Fond(Table):
        def log_probs(self, prefix: tuple[int, ...]) -> np.ndarray:
            row = super().log_probs(prefix).copy()
            row[7:] = -0.1
            return row

    return Fond(seed, vocab_size)


@pytest.mark.parametrize("style", ["", "coco", "own"])
@pytest.mark.parametrize(
    "changes", [{}, {"sample": True, "seed": 1}, {"include": ("dog",)}, {"beam_size": 1}]
)
def test_captions_begin_with_the_start_of_their_style_and_have_no_other(
    style: str, changes: dict[str, object]
) -> None:
    options = replace(OPTIONS, style=style, alternatives=1, **changes)
    stepper = FirstWords([fond_of_starts(seed, len(STYLED)) for seed in range(5)])
    found = search(stepper, options, Constraints.from_options(options, STYLED))
    assert stepper.first == {STYLED.start(style)}
    assert all(word < 7 for hypotheses in found for word in hypotheses[0].words)
    assert any(hypotheses[0].words for hypotheses in found)


def test_the_search_is_the_one_over_the_words_alone() -> None:
    """Probabilities of words are the same in both tables, which the start tokens lie behind."""
    plain = Vocabulary(STYLED.words[:7])
    tables = [fond_of_starts(seed, len(STYLED)) for seed in range(8)]

    class Cut(Table):
        def __init__(self, table: Table) -> None:
            self.table, self.vocab_size = table, len(plain)
            self.attention = table.attention

        def log_probs(self, prefix: tuple[int, ...]) -> np.ndarray:
            return self.table.log_probs(prefix)[: self.vocab_size]

    styled = search(TableStepper(tables), OPTIONS, Constraints.from_options(OPTIONS, STYLED))
    alone = search(
        TableStepper([Cut(table) for table in tables]),
        OPTIONS,
        Constraints.from_options(OPTIONS, plain),
    )
    assert [[(h.words, h.log_prob) for h in each] for each in styled] == [
        [(h.words, h.log_prob) for h in each] for each in alone
    ]


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ConfigError, match="There is no style 'x'; expected one of coco, own"):
        Constraints.from_options(replace(OPTIONS, style="x"), STYLED)
    with pytest.raises(ConfigError, match="style is 3; expected a string"):
        DecodingOptions(style=3)  # type: ignore[arg-type]


def test_options_tell_their_style_if_there_is_one() -> None:
    assert "style" not in OPTIONS.to_dict()
    styled = replace(OPTIONS, style="own")
    assert DecodingOptions.from_dict(styled.to_dict()) == styled


def test_start_tokens_are_forms_of_nothing() -> None:
    assert sorted(word for ids in groups(STYLED).values() for word in ids) == [4, 5, 6]
