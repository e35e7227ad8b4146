"""The part `metrics` of scripts/benchmark.py: scoring, compared with the official COCO scorer.

The data are 5,000 images with 5 references each, and a caption per image that joins the first half
of one reference and the second half of another. Both sides start from text and cache nothing
between rounds; the official one (pycocoevalcap, if it and Java are installed) starts with its
tokenizer, a Java program. `times` compares wall-clock time, `processor` CPU time including child
processes, which is more reliable on a busy machine.
"""

import contextlib
import io
import os
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from captioner import tokenizer
from captioner.annotations.records import load_records
from captioner.evaluation.bleu import bleu
from captioner.evaluation.cider import CiderD, cider_d
from captioner.evaluation.rouge import rouge_l
from captioner.tokenizer import tokenize

COCO = Path(__file__).parents[1] / "data/coco-captions/captions_val2017.json"
IMAGES, REFERENCES, WORDS = 5000, 5, 10_000  # WORDS: of drawn sentences
REWARDED, SAMPLES = 200, 5  # images per training step, and captions sampled for each
ALL, REWARD = "all three, from raw text", "CIDEr-D as a reward"

Texts = dict[Any, list[str]]
Stages = dict[str, np.ndarray]  # seconds of each stage by name: wall-clock and CPU time (2,)


def metrics(options: Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Measure the seconds of each metric, with our code and with the official scorer."""
    references, source = read_captions(options.annotations)
    candidates = {image_id: [mixed(texts)] for image_id, texts in references.items()}
    sides: dict[str, Callable[[Texts, Texts], tuple[Stages, list[float]]]] = {"captioner": ours}
    if find_spec("pycocoevalcap") and shutil.which("java"):
        sides["pycocoevalcap"] = official
    scores = {name: side(references, candidates)[1] for name, side in sides.items()}  # warms up
    rounds = [
        {name: side(references, candidates)[0] for name, side in sides.items()}
        for _ in range(options.repeat or 3)
    ]
    apart = max(
        abs(a - b) for a, b in zip(scores["captioner"], scores[list(sides)[-1]], strict=True)
    )
    number = sum(map(len, references.values()))
    title = f"Metrics: {len(references):,} images with {number:,} references, {source}"
    title += f"; scores differ by {100 * apart:.4f} points at most" if len(sides) > 1 else ""
    rows = rows_of(rounds)
    reward, rewarded = reward_seconds(references, candidates, 5 * (options.repeat or 3))
    name = f"{REWARD}, {rewarded} captions"
    return title, [*rows, {**dict.fromkeys(rows[0]), "": name, "captioner, ms": 1000 * reward}]


def read_captions(path: Path | None) -> tuple[Texts, str]:
    """Return each image's references and their origin: a file, COCO if present, or synthetic."""
    if path is None and not COCO.is_file():
        return draw_captions(), "drawn"
    records = load_records(path or COCO)[:IMAGES]
    return {record.image_id: list(record.captions[:REFERENCES]) for record in records}, (
        path or COCO
    ).name


def draw_captions() -> Texts:
    """Generate sentences with Zipfian word frequencies; an image's sentences share some words."""
    rng = np.random.default_rng(0)
    words = [
        f"{a}{b}{c}"
        for a in "bdfgklmnprst"
        for b in ("a", "ea", "i", "o", "ou")
        for c in ("", "ck", "nd", "st")
    ]
    words = [first + second for first in words for second in words][:WORDS]
    chance = 1 / np.arange(1, WORDS + 1)
    chosen = rng.choice(WORDS, (IMAGES, 24), p=chance / chance.sum())
    places = np.sort(
        rng.permuted(np.tile(np.arange(24), (IMAGES, REFERENCES, 1)), axis=2)[..., :10], axis=2
    )
    return {
        image: [
            " ".join(words[chosen[image, place]] for place in text).capitalize() + "."
            for text in texts
        ]
        for image, texts in enumerate(places)
    }


def mixed(texts: Sequence[str]) -> str:
    """Return the first half of one caption, and the second half of another."""
    first, second = texts[0].split(), texts[-1].split()
    return " ".join(first[: len(first) // 2] + second[len(second) // 2 :])


def ours(references: Texts, candidates: Texts) -> tuple[Stages, list[float]]:
    """Return the seconds of each stage, and the scores."""
    tokenizer._tokens_of_piece.cache_clear()
    clock = Clock()
    tokens = tokens_of(references)
    captions = {image_id: tokenize(text) for image_id, (text,) in candidates.items()}
    clock.lap("tokens")
    scores = [*bleu(tokens, captions)]
    clock.lap("BLEU")
    scores.append(rouge_l(tokens, captions)[0])
    clock.lap("ROUGE-L")
    scores.append(cider_d(tokens, captions)[0])
    clock.lap("CIDEr-D")
    return clock.laps, scores


def official(references: Texts, candidates: Texts) -> tuple[Stages, list[float]]:
    """Return the same for pycocoevalcap."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    sides = [
        {image_id: [{"caption": text} for text in texts] for image_id, texts in side.items()}
        for side in (references, candidates)
    ]
    clock = Clock()
    with contextlib.redirect_stdout(io.StringIO()):
        tokens, captions = (PTBTokenizer().tokenize(side) for side in sides)
        clock.lap("tokens")
        scores = [*Bleu(4).compute_score(tokens, captions, verbose=0)[0]]
        clock.lap("BLEU")
        scores.append(Rouge().compute_score(tokens, captions)[0])
        clock.lap("ROUGE-L")
        scores.append(Cider().compute_score(tokens, captions)[0])
        clock.lap("CIDEr-D")
    return clock.laps, scores


class Clock:
    """Measures the seconds of laps, by name, and in total."""

    def __init__(self) -> None:
        self.laps: Stages = {}
        self._last = self._now()

    def lap(self, name: str) -> None:
        """End a lap."""
        now = self._now()
        self.laps[name], self._last = now - self._last, now
        self.laps[ALL] = sum((laps for name, laps in self.laps.items() if name != ALL), np.zeros(2))

    @staticmethod
    def _now() -> np.ndarray:
        return np.array([time.perf_counter(), sum(os.times()[:4])])


def tokens_of(references: Texts) -> dict[Any, list[list[str]]]:
    """Return references as tokens."""
    return {image_id: [tokenize(text) for text in texts] for image_id, texts in references.items()}


def rows_of(rounds: Sequence[Mapping[str, Stages]]) -> list[dict[str, Any]]:
    """Return milliseconds of both sides, and the median over rounds of their ratio."""
    rows = []
    for stage in sorted(rounds[0]["captioner"], key=lambda name: name == ALL):
        taken = {
            name: np.array([sides[name][stage] for sides in rounds]) for name in rounds[0]
        }  # (rounds, 2)
        row: dict[str, Any] = {"": stage} | {
            f"{name}, ms": float(1000 * median(s[:, 0])) for name, s in taken.items()
        }
        if "pycocoevalcap" in taken:
            times, of_processor = np.median(
                taken["pycocoevalcap"] / np.maximum(taken["captioner"], 1e-9), axis=0
            )
            row |= {"times": float(times), "processor": float(of_processor)}
        rows.append(row)
    return rows


def reward_seconds(references: Texts, candidates: Texts, rounds: int) -> tuple[float, int]:
    """Time the scoring of a training step's captions; return seconds and the number of captions.

    The seconds are the minimum over all rounds, as timeit recommends.
    """
    built = CiderD(tokens_of(references))
    image_ids = [image_id for image_id in list(references)[:REWARDED] for _ in range(SAMPLES)]
    texts = [
        tokenize(candidates[image_id][0])[i % SAMPLES :] for i, image_id in enumerate(image_ids)
    ]
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        built.score_each(image_ids, texts)
        seconds.append(time.perf_counter() - start)
    return min(seconds), len(texts)
