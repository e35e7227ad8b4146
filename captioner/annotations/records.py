"""Load annotation files (COCO JSON, Karpathy's splits, clips, CSV, JSON Lines) as records."""

import contextlib
import gc
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from captioner.annotations.entries import Entry, reading
from captioner.annotations.formats import FORMATS
from captioner.annotations.paths import existing_name, hint
from captioner.errors import ConfigError, DataError
from captioner.images.clips import ClipPart

Split = Literal["train", "val", "test"]

logger = logging.getLogger(__name__)

_FLICKR_FOLDERS = (
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Images",
    "flickr30k-images",
    "flickr30k_images",
)
_CLIP_FOLDERS = ("videos", "clips", "TrainValVideo", "TestVideo", "YouTubeClips")
_OF_COCO = re.compile(r"dataset_coco\.json|(captions|instances)_(train|val)20(14|17)\.json")
_SAMPLE = 16  # images that are looked for to find the image folder


@dataclass(frozen=True)
class Record:
    """An image or a clip with its reference captions.

    Attributes:
        image_id: The image's id in the annotations: COCO's number or string; `imgid` in Karpathy's
            files of other data sets; the `image` column in CSV and JSON Lines.
        path: Where the image should be; not checked (see `check_images`).
        captions: One or more raw captions, in the order of the file.
        ranks: The rank of each caption, counted from 1: `rank` in COCO JSON, 1 if missing. Empty
            if the file has no ranks at all; then the captions' order is their rank.
        captions_by: Who wrote the captions, `captions_by` of an image in COCO JSON: "human" or
            other; empty if the file doesn't say.
        start: Start of the captioned part of a clip in seconds; None for the clip's start and for
            an image.
        end: End of the captioned part in seconds; None for the clip's end and for an image.
    """

    image_id: int | str
    path: Path
    captions: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    captions_by: str = ""
    start: float | None = None
    end: float | None = None

    @property
    def clip(self) -> ClipPart:
        """The clip, or the part of it that is captioned."""
        return ClipPart(self.path, self.start, self.end)

    @property
    def whole_id(self) -> int | str:
        """The image's id; for a part of a clip, the whole clip's."""
        if self.start is None and self.end is None:
            return self.image_id
        return str(self.image_id).rpartition("@")[0]

    def ranked(self) -> list[tuple[int, str]]:
        """Return (rank, caption) of each caption, in the order of the file."""
        ranks = self.ranks or range(1, len(self.captions) + 1)
        return list(zip(ranks, self.captions, strict=True))


def load_records(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    split: Split | None = None,
    *,
    strict: bool = False,
) -> list[Record]:
    """Load an annotation file; the format is detected from its suffix and content.

    `.json` is COCO captions JSON: `{"images": [{"id", "file_name"}], "annotations": [{"image_id",
    "caption"}]}`, read with pycocotools; or one of Karpathy's files, such as `dataset_coco.json`,
    which have all splits. `.csv` (with a header) and `.jsonl` (one object per line) have `image`
    and `caption`. Rows of the same image are merged; other columns and empty rows are ignored.
    Paths may contain backslashes and surrounding spaces.

    For clips, CSV and JSON Lines files have `clip` instead of `image`, and optionally `start` and
    `end` in seconds. The files of MSVD (`AllVideoDescriptions.txt` or its `.csv`, with splits if
    `youtube_mapping.txt` is in the same folder), MSR-VTT (`.json`, with splits) and VATEX
    (`.json`) are read too; their clips may have any usual suffix.

    For JSON, the usual folder layouts are tried. With `X/annotations/captions_train2017.json`,
    images are looked for in `X/train2017`, `X/images/train2017`, `X/images`, `X` and the folders
    of Flickr8k and Flickr30k, then in the same folders next to the file; with a given folder, in
    it and in its `train2017`. The first folder with the most images of a small sample is used.

    Args:
        annotations: The annotation file, in UTF-8.
        images: The folder that image paths are relative to. By default the folder where the images
            of a JSON file are found, else the annotation file's folder.
        split: The split of a file that has splits (Karpathy's files, MSVD, MSR-VTT); `restval`
            belongs to "train". Other files are loaded whole.
        strict: Fail if a split is given for a file without splits.

    Returns:
        One record for each image that has captions, in the order of the file.

    Raises:
        ConfigError: There is no such split.
        DataError: The file cannot be read or is malformed; the message says where.
        MissingExtraError: For COCO JSON without pycocotools.
    """
    path = Path(annotations)
    if split is not None and split not in get_args(Split):
        raise ConfigError(f"There is no split {split!r}; expected {', '.join(get_args(Split))}.")
    with (
        reading(path, _whence(path)),
        _collector_paused(),  # COCO's files would take 50 % longer otherwise
    ):
        entries, has_splits = _read(path, split)
    if not entries:
        raise DataError(f"{path}: no captions; expected at least one image with a caption")
    if strict and split is not None and not has_splits:
        raise DataError(
            f"{path}: the file has no splits (Karpathy's files do); leave out --split {split} to"
            " use all of it"
        )
    given = None if images is None else Path(images)
    folder = given or path.parent
    if path.suffix.lower() == ".json" or entries[0].suffixes:
        folder = _find_folder(entries, _folders(path, given), otherwise=folder)
        if given is None:
            logger.info("Looking for the images of %s in %s", path, folder)
        entries = [entry._replace(name=_existing(folder, entry)) for entry in entries]
    else:
        entries = _merged(entries, folder)
    return [
        Record(
            entry.image_id,
            folder / entry.name,
            entry.captions,
            entry.ranks,
            entry.captions_by,
            entry.start,
            entry.end,
        )
        for entry in entries
    ]


def _existing(folder: Path, entry: Entry) -> str:
    """Find how an entry's path is spelled in the file system, with its suffix."""
    if not entry.suffixes:
        return existing_name(folder, entry.name)
    names = [f"{entry.name}{suffix}" for suffix in entry.suffixes]
    return next((name for name in names if os.path.isfile(folder / name)), names[0])


def _merged(entries: Iterable[Entry], folder: Path) -> list[Entry]:
    """Merge the rows of the same image; different spellings of a path are one image."""
    merged: dict[tuple[Path, float | None, float | None], Entry] = {}
    for entry in entries:
        name = existing_name(folder, entry.name)
        what = (folder / name, entry.start, entry.end)  # a path of ./a.jpg is that of a.jpg
        first = merged.get(what, entry._replace(name=name, captions=()))
        merged[what] = first._replace(captions=first.captions + entry.captions)
    return list(merged.values())


def _whence(path: Path) -> str:
    """Say how to get a missing COCO file, to append to a message; "" for other files."""
    if path.exists() or not _OF_COCO.fullmatch(path.name):
        return ""
    year = " --year 2017" if "2017" in path.name else ""
    return f". Download COCO into data/coco: captioner prepare-coco{year}"


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector: it would scan millions of live objects repeatedly."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(path: Path, split: Split | None) -> tuple[list[Entry], bool]:
    """Read a file of any format; return its entries and whether it has splits."""
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        *others, last = FORMATS
        raise DataError(
            f"{path}: annotations must be a {', '.join(others)} or {last} file (.json: COCO"
            " captions)"
        )
    return reader(path, split)


def _folders(path: Path, given: Path | None) -> list[Path]:
    """List the folders where the images of a JSON file may be, most likely first."""
    half = path.stem.partition("_")[2]  # train2017 of captions_train2017.json
    if given is not None:
        return [given, given / half]
    roots = (
        [path.parent.parent, path.parent] if path.parent.name == "annotations" else [path.parent]
    )
    names = [half, f"images/{half}", "images", "", *_FLICKR_FOLDERS, *_CLIP_FOLDERS]
    return [root / name for root in roots for name in names]


def _find_folder(entries: Sequence[Entry], folders: Iterable[Path], otherwise: Path) -> Path:
    """Return the first of the folders with the most images of a sample."""
    sample = entries[:: max(1, len(entries) // _SAMPLE)][:_SAMPLE]
    counts = {
        folder: sum(os.path.isfile(folder / _existing(folder, entry)) for entry in sample)
        for folder in folders
    }
    best = max(counts, key=lambda folder: counts[folder])
    return best if counts[best] else otherwise


def find_missing(records: Iterable[Record]) -> list[Record]:
    """Return the records whose image file doesn't exist."""
    return [record for record in records if not os.path.isfile(record.path)]


def check_images(records: Sequence[Record]) -> None:
    """Check that the image file of every record exists.

    Raises:
        DataError: Files are missing; the message names the first few and their folder.
    """
    missing = [record.path for record in find_missing(records)]
    if missing:
        folders = {path.parent for path in missing}
        where = f" in {missing[0].parent}" if len(folders) == 1 else ""
        named = ", ".join(path.name if where else str(path) for path in missing[:3])
        raise DataError(
            f"{len(missing):,} of {len(records):,} images are missing{where}:"
            f" {named}{', ...' if len(missing) > 3 else ''}{hint(missing[0])}; give the folder that"
            " image paths are relative to"
        )
