"""Measure how often words without visual evidence are wrong: scripts/measure_evidence.py FILE DIR.

Photos with captions by people are captioned, and each content word of the model's caption is looked
up in the references. A word is absent if no reference has a form of it; a noun of the tags is
absent if no reference has a synonym or a more specific noun either. The threshold is chosen on
every second photo and tested on the others. The tables between the markers in
docs/how-to/explain.md are updated.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # a script finds only its own folder

from captioner.annotations.records import Record, check_images, load_records
from captioner.commands.terminal import track
from captioner.decoding.forms import base
from captioner.errors import CaptionerError
from captioner.evaluation.statistics import interval, resample
from captioner.explain.evidence import THRESHOLD, Evidence, find_evidence, is_content
from captioner.inference import Captioner
from captioner.tags import TagConfig
from captioner.tags.matching import forms as forms_of
from captioner.tags.matching import noun_matcher
from captioner.tags.table import TagTable
from captioner.tokenizer import tokenize
from scripts.pages import check_markers, write_between

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "explain.md"
MARKERS = "measured"
THRESHOLDS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)


class Said(NamedTuple):
    """A content word of a caption.

    Attributes:
        photo: The index of the photo.
        noun: Whether it is a noun of the tags.
        pmi: Its pointwise mutual information with the photo, in nats.
        absent: Whether the references lack it.
    """

    photo: int
    noun: bool
    pmi: float
    absent: bool


def main(args: Sequence[str] | None = None) -> int:
    """Measure, and write the tables.

    Args:
        args: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after a user's mistake.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("annotations", type=Path, metavar="FILE", help="Captions by people.")
    parser.add_argument("images", type=Path, metavar="DIR", help="The folder of their images.")
    parser.add_argument("--model", type=Path, help="Checkpoint folder. [default: the bundled one]")
    parser.add_argument("--page", type=Path, default=PAGE, help="The page with the marks.")
    options = parser.parse_args(args)
    try:
        check_markers(options.page, MARKERS)
        records = load_records(options.annotations, options.images)
        check_images(records)
        captioner = Captioner.from_pretrained(options.model)
        write_between(options.page, MARKERS, tables(measure(captioner, records)))
    except CaptionerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(captioner: Captioner, records: Sequence[Record]) -> list[Said]:
    """Caption the photos of records, and compare each content word with their captions."""
    table = (captioner.tags or TagConfig()).tagger.table
    stream = captioner.stream([record.path for record in records])
    captions = []
    for caption in track(stream, len(records)):
        if isinstance(caption, CaptionerError):
            raise caption
        captions.append(caption)
    found = []
    for photo, evidence in enumerate(find_evidence(captioner, captions)):
        found += words_of(photo, evidence, records[photo].captions, table)
    return found


def words_of(
    photo: int, evidence: Evidence, references: Sequence[str], table: TagTable
) -> list[Said]:
    """Compare a caption's content words with the references."""
    said = {base(word) for text in references for word in tokenize(text.replace("-", " "))}
    named = noun_matcher(table).named(references)
    found = []
    for word, pmi in zip(evidence.caption.words, evidence.pmi, strict=True):
        if is_content(word):
            nouns = np.array([word in forms_of(noun) for noun in table.nouns])
            present = base(word) in said or bool((nouns & named).any())
            found.append(Said(photo, bool(nouns.any()), pmi, not present))
    return found


def tables(words: Sequence[Said]) -> str:
    """Tabulate thresholds on one half of the photos, and the chosen one on the other half."""
    chosen_on = [word for word in words if word.photo % 2 == 0]
    others = [word for word in words if word.photo % 2]
    photos = [len({word.photo for word in some}) for some in (chosen_on, others)]
    return "\n".join(
        [
            f"The {photos[0]} photos that the threshold was chosen on:",
            "",
            *_table(chosen_on, THRESHOLDS),
            "",
            f"The other {photos[1]} photos, at the threshold of {THRESHOLD:g} nats:",
            "",
            *_table(others, [THRESHOLD]),
            "",
        ]
    )


def _table(words: Sequence[Said], thresholds: Sequence[float]) -> list[str]:
    lines = [
        "| words | threshold, nats | marked | of these absent | unmarked | of these absent |"
        " difference, 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds = {"nouns": [word for word in words if word.noun], "all content words": list(words)}
    for kind, some in kinds.items():
        for threshold in thresholds:
            marked = [word for word in some if word.pmi < threshold]
            unmarked = [word for word in some if word.pmi >= threshold]
            lines.append(
                f"| {kind} | {threshold:g} | {len(marked)} | {_share(marked)} | {len(unmarked)} |"
                f" {_share(unmarked)} | {_difference(some, threshold)} |"
            )
    return lines


def _share(words: Sequence[Said]) -> str:
    return f"{np.mean([word.absent for word in words]):.0%}" if words else ""


def _difference(words: Sequence[Said], threshold: float) -> str:
    """Format the interval of the difference of both shares, by the bootstrap over photos."""
    if not words:
        return ""
    photos = np.unique([word.photo for word in words], return_inverse=True)[1]
    marked = np.array([word.pmi < threshold for word in words])
    absent = np.array([word.absent for word in words])
    counts = [np.bincount(photos, some) for some in (marked, marked & absent)]
    counts += [np.bincount(photos, some) for some in (~marked, ~marked & absent)]
    drawn = []
    for weights in resample(len(counts[0])):
        with np.errstate(invalid="ignore"):  # draws without a marked word
            all_of, wrong, all_other, wrong_other = (weights @ count for count in counts)
            drawn.append(wrong / all_of - wrong_other / all_other)
    differences = np.concatenate(drawn)
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return ""
    low, high = interval(differences)
    return f"[{low:+.0%}, {high:+.0%}]"


if __name__ == "__main__":
    sys.exit(main())
