"""The figure, measured by matplotlib's renderer and checked by its pixels."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.explain import Explanation, heat
from captioner.inference import Caption

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from captioner.explain.figure import draw

ROOT = Path(__file__).parents[1]
SENTENCE = (
    "a group of people are standing in front of a large building in the middle of the ocean with"
    " the sun"
)
ODD = ("$x$", "<b>", "100%", "{0}", "\\alpha", "d\u00f6g")


def explanation_of(words: tuple[str, ...], size: tuple[int, int] = (320, 213)) -> Explanation:
    random = np.random.default_rng(len(words))
    maps = random.random((len(words), 7, 7)).astype(np.float32)
    log_probs = tuple(np.log(random.random(len(words))).tolist())
    caption = Caption(" ".join(words), words, sum(log_probs), log_probs, maps)
    photo = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize(size)
    return Explanation(photo, caption, "attention", maps)


def panels(figure: Figure) -> list[np.ndarray]:
    """What each panel shows."""
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]


@pytest.mark.parametrize("length", [1, 2, 7, 10, 22])
@pytest.mark.parametrize("size", [(320, 213), (200, 600)])
def test_a_panel_for_each_word_and_nothing_overlaps(length: int, size: tuple[int, int]) -> None:
    words = (*SENTENCE.split()[: length - 1], "skateboarding")
    explanation = explanation_of(words, size)
    figure = draw(explanation)
    assert len(figure.axes) == len(panels(figure)) == length + 1
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [text.get_window_extent(renderer) for axes in figure.axes for text in axes.texts]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    boxes += [axes.get_window_extent(renderer) for axes in figure.axes]
    for number, box in enumerate(boxes):
        assert (
            box.x0 >= 0
            and box.y0 >= 0
            and box.x1 <= figure.bbox.width
            and box.y1 <= figure.bbox.height
        )
        for other in boxes[:number]:
            assert not box.overlaps(other), (box, other)
    width, height = figure.get_size_inches()
    assert 0.5 < width / height < 4
    left, low, right, high = figure.axes[1].get_position().extents
    assert (right - left) * width / ((high - low) * height) == pytest.approx(
        size[0] / size[1], rel=0.02
    )


def test_the_panels_show_the_photo_and_each_words_map() -> None:
    explanation = explanation_of(("a", "dog", "runs"))
    photo, *words = panels(draw(explanation))
    assert np.array_equal(photo, np.asarray(explanation.photo))
    for found, attention in zip(words, explanation.shown(), strict=True):
        assert np.array_equal(found, np.asarray(heat(explanation.photo, attention)))


def test_words_and_probabilities_stand_above_as_they_are() -> None:
    explanation = explanation_of(ODD)
    figure = draw(explanation)
    heads = [tuple(text.get_text() for text in axes.texts) for axes in figure.axes]
    expected = [(word, f"{p:.0%}") for word, p in zip(ODD, explanation.probabilities, strict=True)]
    assert heads == [(), *expected]
    assert explanation.caption.text in " ".join(figure.texts[0].get_text().split("\n"))
    file = io.BytesIO()
    figure.savefig(file)  # "$x$" and "\\alpha" are no formulas
    assert Image.open(file).size[0] > 400


def test_a_word_too_long_for_its_panel_is_cut() -> None:
    figure = draw(explanation_of(("a", "w" * 60)))
    assert figure.axes[2].texts[0].get_text().endswith("w\u2026")


def test_bright_is_where_the_map_is_high(tmp_path: Path) -> None:
    """Seen in the file itself: the glow of a word is in the corner where its map is."""
    explanation = explanation_of(("a", "dog"), (210, 210))
    maps = np.zeros((2, 7, 7), np.float32)
    maps[0, 0, 0] = maps[1, 6, 6] = 1
    dark = Image.new("RGB", (210, 210), (60, 60, 60))
    figure = draw(replace(explanation, maps=maps, photo=dark))
    figure.savefig(tmp_path / "figure.png")
    pixels = np.asarray(Image.open(tmp_path / "figure.png").convert("L"), float)
    for axes, (row, column) in zip(figure.axes[1:], [(0.1, 0.1), (0.9, 0.9)], strict=True):
        left, low, right, high = axes.get_position().extents
        inner = pixels[
            round((1 - high) * len(pixels)) + 3 : round((1 - low) * len(pixels)) - 3,
            round(left * pixels.shape[1]) + 3 : round(right * pixels.shape[1]) - 3,
        ]
        height, width = inner.shape
        y, x = np.unravel_index(inner.argmax(), inner.shape)
        assert (y / height, x / width) == pytest.approx((row, column), abs=0.12)


def test_nothing_goes_through_pyplot() -> None:
    code = (
        "import sys\n"
        "from tests.test_explain_figure import draw, explanation_of\n"
        "draw(explanation_of(('a', 'dog')))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
