"""Robustness of captions to damaged photos: the part `robustness` of scripts/benchmark.py.

Photos with reference captions are captioned intact and under each damage and severity, and the drop
of CIDEr-D is reported. Without annotations the references are the captions of the intact photos.
See docs/robustness.md.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from captioner.annotations.records import Record, check_images, load_records
from captioner.commands.terminal import track
from captioner.errors import ConfigError
from captioner.evaluation.results import ImageId
from captioner.images import find_images
from captioner.inference import Captioner
from captioner.robustness.damages import SEVERITIES, find_damages
from captioner.robustness.measure import Robustness, measure
from captioner.robustness.report import save_report, title

ROOT = Path(__file__).parents[1]
# One of each group, and all damages of real photos: takes minutes on two cores.
SUBSET = "gaussian_noise,motion_blur,frost,contrast,jpeg_compression,real"
PHOTOS = 60


def robustness(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Return the drop of CIDEr-D under each damage; write the report to a folder, if given."""
    damages = find_damages(options.damages or SUBSET)
    severities = parse_severities(options.severities)
    captioner = Captioner.from_pretrained(options.model)
    photos, references = find_photos(options)
    found = measure(
        captioner,
        photos,
        references,
        damages,
        severities,
        seed=options.seed,
        batch_size=options.batch_size or 32,
        track=track,
    )
    if options.output:
        save_report(options.output, found)
    held = "the captions of the whole photos" if found.own else "annotations"
    about = f"Robustness: {len(photos)} photos, CIDEr-D x 100 against {held}, by severity"
    return about, rows_of(found)


def rows_of(found: Robustness) -> list[dict[str, Any]]:
    """Return a row for each damage, and one for their mean."""
    severities = sorted({each.severity for each in found.damaged})
    rows: list[dict[str, Any]] = []
    for name in found.damages:
        scores = {each.severity: 100 * each.score for each in found.of(name)}
        drop = found.drops[name]
        rows.append(
            {
                "damage": title(name),
                "0": 100 * found.whole.score,
                **{str(severity): scores.get(severity) for severity in severities},
                "drop %": 100 * drop.value,
                "from": 100 * drop.interval[0],
                "to": 100 * drop.interval[1],
            }
        )
    mean = found.mean_drop
    ends = {"from": 100 * mean.interval[0], "to": 100 * mean.interval[1]}
    empty = dict.fromkeys(["0", *map(str, severities)])
    return [*rows, {"damage": "mean", **empty, "drop %": 100 * mean.value, **ends}]


def find_photos(
    options: argparse.Namespace, most: int = PHOTOS
) -> tuple[dict[ImageId, Path], dict[ImageId, tuple[str, ...]] | None]:
    """Return photos of annotations, evenly chosen, with references; or those of a folder."""
    most = options.photos or most
    if options.annotations is None:
        folder = options.images or ROOT / "examples"
        paths = list(islice(find_images(folder), most))
        # by the path within the folder, as photos in different folders may have the same name
        return {path.relative_to(folder).as_posix(): path for path in paths}, None
    records = load_records(options.annotations, options.images)
    chosen: list[Record] = [
        records[number * len(records) // min(most, len(records))]
        for number in range(min(most, len(records)))
    ]
    check_images(chosen)
    return (
        {record.image_id: record.path for record in chosen},
        {record.image_id: record.captions for record in chosen},
    )


def parse_severities(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of severities."""
    known = {str(severity): severity for severity in SEVERITIES}
    parts = [part.strip() for part in text.split(",")]
    if not all(part in known for part in parts):
        raise ConfigError(f"--severities is {text!r}; expected some of 1 to 5 with commas: 1,3,5.")
    return tuple(sorted({known[part] for part in parts}))
