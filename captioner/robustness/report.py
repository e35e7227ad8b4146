"""Write a robustness report: JSON, CSV, a curve per damage, a page with the worst photos."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from captioner.evaluation.charts import Series, as_svg, line_plot, ticks
from captioner.evaluation.wording import points
from captioner.files import replacing
from captioner.robustness.damages import severities_of
from captioner.robustness.measure import MAIN, WHOLE, Condition, Drop, Robustness, shown
from captioner.templates import data_uri, inlined, render

_SHOWN = 12  # photos on the page
_THUMBNAIL = (360, 360)  # pixels at most


class Pair(NamedTuple):
    """A photo intact and damaged, side by side: data URIs, captions, scores in points."""

    name: str
    damage: str
    severity: int
    whole: str
    whole_caption: str
    whole_score: str
    damaged: str
    damaged_caption: str
    damaged_score: str


class Row(NamedTuple):
    """A damage in the page's table, and its curve as a data URI."""

    damage: str
    scores: str
    drop: str
    curve: str
    label: str


def save_report(folder: Path, found: Robustness) -> None:
    """Write `robustness.json`, `captions.csv`, `curves/DAMAGE.svg` and `report.html`.

    Args:
        folder: The output folder, created if needed.
        found: The results to write.

    Raises:
        OSError: A file cannot be written.
    """
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    with replacing(folder / "robustness.json") as path:
        path.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    with replacing(folder / "captions.csv") as path:
        _save_captions(path, found)
    for name in found.damages:
        with replacing(folder / "curves" / f"{name}.svg") as path:
            path.write_text(curve(found, name), encoding="utf-8")
    with replacing(folder / "report.html") as path:
        path.write_text(page(found), encoding="utf-8", errors="replace")


def curve(found: Robustness, name: str) -> str:
    """Plot CIDEr-D by the severity of a damage as SVG; severity 0 is the intact photo."""
    conditions = [found.whole, *found.of(name)]
    marks = (0, *severities_of(name))
    heights = [100 * each.score for condition in found.damaged for each in (condition, found.whole)]
    level = 100 * found.whole.score
    return as_svg(
        line_plot(
            [
                Series("undamaged", [(0, level), (marks[-1], level)], "ideal"),
                Series(
                    title(name),
                    [(each.severity, 100 * each.score) for each in conditions],
                    titles=[f"{each.severity}: {points(each.score)}" for each in conditions],
                ),
            ],
            marks,
            ticks(0, max(heights) or 1),
            label=f"{MAIN} by the severity of {title(name)}",
            x_name="severity",
            y_name=MAIN,
        )
    )


def title(name: str) -> str:
    """Return a damage's name for display."""
    return name.replace("_", " ")


def drop_text(drop: Drop) -> str:
    """Format a relative drop with its interval, in percent."""
    low, high = drop.interval
    return f"{points(drop.value)} % [{points(low)}, {points(high)}]"


def worst(found: Robustness, most: int = _SHOWN) -> list[tuple[int, Condition]]:
    """Find the photos whose captions lose most, each once, under its most harmful damage.

    Returns:
        Pairs of a photo's index and the condition, the largest loss first; only real losses.
    """
    losses = np.stack([found.whole.per_photo - each.per_photo for each in found.damaged])  # (C, N)
    largest = losses.max(axis=0)
    order = np.argsort(-largest, kind="stable")[:most].tolist()
    chosen = losses.argmax(axis=0).tolist()
    return [(photo, found.damaged[chosen[photo]]) for photo in order if largest[photo] > 0]


def page(found: Robustness) -> str:
    """Create the page: one self-contained HTML file."""
    rows = [
        Row(
            title(name),
            ", ".join(f"{each.severity}: {points(each.score)}" for each in found.of(name)),
            drop_text(found.drops[name]),
            data_uri(curve(found, name).encode(), "image/svg+xml"),
            f"{MAIN} by the severity of {title(name)}",
        )
        for name in found.damages
    ]
    return render(
        "captioner.robustness",
        "report.html",
        photos=len(found.photos),
        own=found.own,
        metric=MAIN,
        score=points(found.whole.score),
        mean_drop=drop_text(found.mean_drop),
        rows=rows,
        pairs=_pairs(found),
        **inlined(Path(__file__).with_name("report")),
    )


def _pairs(found: Robustness) -> list[Pair]:
    files = list(found.photos.items())
    pairs = []
    for photo, condition in worst(found):
        image_id, path = files[photo]
        whole = shown(path, image_id, WHOLE, 0, found.seed)
        damaged = shown(path, image_id, condition.damage, condition.severity, found.seed)
        pairs.append(
            Pair(
                path.name,
                title(condition.damage),
                condition.severity,
                _picture(whole),
                found.whole.captions[photo],
                points(found.whole.per_photo[photo]),
                _picture(damaged),
                condition.captions[photo],
                points(condition.per_photo[photo]),
            )
        )
    return pairs


def _picture(image: Image.Image) -> str:
    small, file = image.copy(), io.BytesIO()
    small.thumbnail(_THUMBNAIL)
    small.save(file, "JPEG", quality=80)
    return data_uri(file.getvalue(), "image/jpeg")


def _save_captions(path: Path, found: Robustness) -> None:
    """Write a row for each photo and condition."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_id", "damage", "severity", "caption", MAIN])
        conditions: Sequence[Condition] = (found.whole, *found.damaged)
        for condition in conditions:
            for image_id, text, score in zip(
                found.photos, condition.captions, condition.per_photo.tolist(), strict=True
            ):
                table.writerow([image_id, condition.damage, condition.severity, text, score])
