"""The check of attention maps, on models whose words depend on where they look or do not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.errors import ConfigError
from scripts import benchmark, benchmark_attention
from scripts.benchmark_attention import (
    OTHER_PHOTO,
    OTHER_WORDS,
    RANDOM,
    Word,
    falls,
    masks_of,
    row_of,
    rows_of,
)
from tests.patches import SIZE, Cell, patch_captioner

CELLS = [(1, 5), (6, 0), (3, 3)]
CORNER = [(0, 6)] * 3


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bright")
    random = np.random.default_rng(0)
    for number in range(12):
        light = random.integers(180, 256, (7, 7, 3), dtype=np.uint8)
        Image.fromarray(light).resize((SIZE, SIZE), Image.Resampling.NEAREST).save(
            folder / f"{number:02}.png"
        )
    return sorted(folder.iterdir())


def measured(
    bright: list[Path], looks: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, Any]]:
    """The row of each comparison, if a word looks at one patch in 49 and that one is hidden."""
    monkeypatch.setattr(benchmark_attention, "SHARE", 1 / 49)
    words = falls(patch_captioner(CELLS, looks), bright)
    assert len(words) == len(CELLS) * len(bright)
    return {
        row["hidden instead"]: row
        for row in (row_of("all", words, other) for other in words[0].others)
    }


def test_maps_that_mean_something_are_found_to(
    bright: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = measured(bright, CELLS, monkeypatch)
    for other in (RANDOM, OTHER_WORDS):
        row = rows[other]
        assert row["attended"] > 0.5 > row["others"] + 0.3
        assert row["from"] > 0.4
        assert row["from"] < row["difference"] < row["to"]
        assert row["difference"] == pytest.approx(row["attended"] - row["others"])
    assert rows[OTHER_WORDS]["others"] == pytest.approx(0, abs=1e-6)
    # Of these photos all captions look alike: a third of another photo's maps are this word's very
    # own.
    assert rows[OTHER_PHOTO]["others"] == pytest.approx(rows[OTHER_PHOTO]["attended"] / 3, rel=1e-4)


def test_maps_that_mean_nothing_are_found_out(
    bright: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = measured(bright, CORNER, monkeypatch)
    assert rows[RANDOM]["attended"] == pytest.approx(0, abs=1e-6)
    assert rows[RANDOM]["difference"] <= 0 and rows[RANDOM]["to"] <= 0
    assert rows[OTHER_WORDS]["difference"] == pytest.approx(0, abs=1e-6)


def test_a_fifth_of_the_regions_the_largest_is_hidden() -> None:
    attention = np.random.default_rng(1).random((4, 7, 7))
    masks = masks_of(attention)
    assert masks.sum(axis=(1, 2)).tolist() == [10] * 4
    for values, mask in zip(attention, masks, strict=True):
        assert values[mask].min() > values[~mask].max()
    with pytest.raises(ConfigError, match="has no attention; expected a model"):
        masks_of(None)


def test_the_interval_is_that_of_photos_and_not_of_words() -> None:
    """A hundred equal words of a photo count as one word; the interval of a mean is known."""
    random = np.random.default_rng(2)
    differences = random.normal(0.3, 1, 400)
    once = row_of(
        "all", [Word(n, "dog", d, {RANDOM: 0.0}) for n, d in enumerate(differences)], RANDOM
    )
    often = row_of(
        "all",
        [Word(n, "dog", d, {RANDOM: 0.0}) for n, d in enumerate(differences) for _ in range(9)],
        RANDOM,
    )
    error = 1.96 * differences.std() / 20
    for row in (once, often):
        assert row["difference"] == pytest.approx(differences.mean())
        assert (row["from"], row["to"]) == pytest.approx(
            (differences.mean() - error, differences.mean() + error), abs=0.02
        )


def test_words_of_content_and_function_are_told_apart() -> None:
    others = {RANDOM: 0.0, OTHER_WORDS: 0.0, OTHER_PHOTO: 0.0}
    words = [
        Word(n, text, fall, others)
        for n in range(3)
        for text, fall in (("the", 0.25), ("dog", 1.0), ("of", 0.25))
    ]
    rows = {(row["words"], row["hidden instead"]): row for row in rows_of(words)}
    assert rows["content words", RANDOM]["attended"] == 1
    assert rows["function words", RANDOM]["attended"] == 0.25
    assert rows["all", RANDOM]["attended"] == 0.5
    assert [row["count"] for row in rows.values()] == [9, 3, 6, 3, 3]


def test_the_command_prints_the_table(
    checkpoint_folder: Path,
    tmp_path: Path,
    picture: Callable[[int], Image.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = ["image,caption"]
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,a dog")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    figures = tmp_path / "figures.json"
    call = ["attention", "--model", str(checkpoint_folder), "--json", str(figures), "--photos", "3"]
    assert benchmark.main([*call, "--annotations", str(tmp_path / "captions.csv")]) == 0
    written = json.loads(figures.read_text())["attention"]
    assert "3 photos" in written["about"]
    assert all(
        np.isfinite([row["attended"], row["from"], row["to"]]).all() for row in written["rows"]
    )
    assert RANDOM in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert benchmark.main([*call, "--images", str(tmp_path / "empty")]) == 2
    assert "expected two or more" in capsys.readouterr().err
