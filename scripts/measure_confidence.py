"""Measure the quality of confidence: scripts/measure_confidence.py --set NAME FILE DIR STYLE ...

Each set of photos with captions by people calibrates the confidence of one style of the model
("plain" for the default style), and the first set its tags too, like `captioner calibrate`. The
tables between the markers in docs/confidence.md and the figures in docs/figures are updated. All
numbers are cross-validated: each photo's probability is from a fit to other photos.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # a script finds only its own folder

from captioner.commands.terminal import track
from captioner.confidence.fitting import Quality, quality
from captioner.errors import CaptionerError
from captioner.evaluation.calibration import (
    Calibrated,
    CalibratedConfidence,
    calibrate,
    kept_scores,
)
from captioner.evaluation.charts import Series, as_svg, line_plot, ticks
from captioner.files import replacing
from scripts.pages import check_markers, write_between

DOCS = Path(__file__).parents[1] / "docs"
MARKERS = "measured"
SHARES = [share / 10 for share in range(10, 2, -1)]
PAIRS = 2000  # of resampled photos, for the interval of a difference

Sets = dict[str, Calibrated]


def main(args: Sequence[str] | None = None) -> int:
    """Measure, and write the tables and figures.

    Args:
        args: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after a user's mistake.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--set",
        nargs=4,
        action="append",
        required=True,
        metavar=("NAME", "FILE", "DIR", "STYLE"),
        help="A name, annotations, the image folder, and a style or plain.",
    )
    parser.add_argument("--model", type=Path, help="Checkpoint folder. [default: the bundled one]")
    parser.add_argument(
        "--write", action="store_true", help="Write the calibrations into the model's config.json."
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="The folder of confidence.md.")
    options = parser.parse_args(args)
    page = options.docs / "confidence.md"
    try:
        check_markers(page, MARKERS)
        found: Sets = {}
        for name, file, folder, style in options.set:
            found[name] = calibrate(
                options.model,
                file,
                folder,
                style="" if style == "plain" else style,
                only="confidence" if found else None,
                track=track,
                write=options.write,
            )
        write_between(page, MARKERS, tables(found))
    except CaptionerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (options.docs / "figures").mkdir(exist_ok=True)
    for name, text in figures(found).items():
        with replacing(options.docs / "figures" / f"{name}.svg") as path:
            path.write_text(text, encoding="utf-8")
    return 0


def tables(found: Sets) -> str:
    """Format tables of the quality of probabilities, and of CIDEr-D by the share kept."""
    lines = [
        "| | photos | base rate | log loss | of the base rate | AUC | calibration error |"
        " by chance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        if each.confidence is not None:
            held = quality(each.confidence.probabilities, each.confidence.good)
            lines.append(_row(f"confidence, {name}", each.photos, held))
        if each.tags is not None:
            before = quality(each.tags.before, each.tags.right_before)
            lines.append(_row(f"tags before, {name}", each.photos, before))
            held = quality(each.tags.probabilities, each.tags.right)
            title = f"tags at {each.tags.config.temperature:.3f}, {name}"
            lines.append(_row(title, each.photos, held))
    lines += ["", "CIDEr-D of the captions that are kept, x100:", ""]
    confident = {
        name: each.confidence for name, each in found.items() if each.confidence is not None
    }
    heads = [
        f"{name}, {how}" for name in confident for how in ("by confidence", "by log-probability")
    ]
    lines += [f"| kept | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    columns = []
    for held_out in confident.values():
        for order in (held_out.probabilities, held_out.mean_log_probs):
            columns.append(kept_scores(order, held_out.scores, SHARES))
    for share, *scores in zip(SHARES, *columns, strict=True):
        lines.append(f"| {share:.0%} | {' | '.join(f'{100 * score:.1f}' for score in scores)} |")
    lines.append("")
    for name, held_out in confident.items():
        low, high = gain(held_out)
        lines.append(
            f"{name.capitalize()}: the more confident half is better than all by"
            f" [{100 * low:.1f}, {100 * high:.1f}] (95 %, bootstrap over photos).\n"
        )
    return "\n".join(lines)


def gain(each: CalibratedConfidence) -> tuple[float, float]:
    """Compute a 95 % interval of the gain in CIDEr-D of the more confident half over all photos."""
    random, count = np.random.default_rng(0), len(each.scores)
    drawn = [random.integers(0, count, count) for _ in range(PAIRS)]
    gains = []
    for rows in drawn:
        (half,) = kept_scores(each.probabilities[rows], each.scores[rows], [0.5])
        gains.append(half - each.scores[rows].mean())
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def figures(found: Sets) -> dict[str, str]:
    """Draw the SVG figures, by file name."""
    drawn = {}
    for name, each in found.items():
        if each.confidence is not None:
            drawn[f"risk_{name}"] = risk(name, each.confidence)
            held = quality(each.confidence.probabilities, each.confidence.good)
            drawn[f"confidence_{name}"] = reliable(held, f"confidence, {name}", "that are good")
        if each.tags is not None:
            held = quality(each.tags.probabilities, each.tags.right)
            drawn[f"tags_{name}"] = reliable(held, f"tags, {name}", "that are right")
    return drawn


def risk(name: str, each: CalibratedConfidence) -> str:
    """Draw CIDEr-D by the share of captions kept."""
    ways = {
        "all": ("ideal", np.zeros(len(each.scores))),
        "by log-probability": ("other", each.mean_log_probs),
        "by confidence": ("line", each.probabilities),
    }
    series = []
    for title, (kind, order) in ways.items():
        means = kept_scores(order, each.scores, SHARES)
        if kind == "ideal":
            means = [float(each.scores.mean())] * len(SHARES)
        points = [(100 * share, 100 * mean) for share, mean in zip(SHARES, means, strict=True)]
        said = [f"{share:.0f} %: {score:.1f}" for share, score in points]
        series.append(Series(title, points, kind, said))
    heights = [score for each in series for _, score in each.points]
    plot = line_plot(
        series,
        [100 * share for share in SHARES],
        ticks(min(heights) - 2, max(heights)),
        label=f"CIDEr-D of the captions that are kept, {name}",
        x_name="share of captions that is kept, %",
        y_name="CIDEr-D",
    )
    return as_svg(plot)


def reliable(held: Quality, what: str, happened: str) -> str:
    """Draw a reliability diagram; bins with fewer than three photos are left out."""
    bins = [each for each in held.reliability.bins if each.count >= 3]
    marks = [mark / 10 for mark in range(0, 11, 2)]
    plot = line_plot(
        [
            Series("calibrated perfectly", [(0, 0), (1, 1)], "ideal"),
            Series(
                what,
                [(each.confidence, each.accuracy) for each in bins],
                titles=[f"{each.count} photos" for each in bins],
            ),
        ],
        marks,
        marks,
        label=f"How often {what}, come true",
        x_name="probability",
        y_name=f"share {happened}",
    )
    return as_svg(plot)


def _row(title: str, photos: int, held: Quality) -> str:
    error = held.reliability.error
    return (
        f"| {title} | {photos:,} | {held.base_rate:.3f} | {held.log_loss:.3f} |"
        f" {held.base_log_loss:.3f} | {held.auc:.3f} | {error:.3f} | {held.chance_error:.3f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
