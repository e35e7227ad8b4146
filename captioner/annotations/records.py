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

from captioner.annotations.entries import Entry
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
_SAMPLE = 16  # so many images are looked for where the folder of images must be found


@dataclass(frozen=True)
class Record:
    """An image, or a clip, with its reference captions.

    Attributes:
        image_id: As the annotations name the image: COCO's number or string; `imgid` in Karpathy's
            files of other data sets; for CSV and JSON lines the text of the `image` column.
        path: Where the image should be; not checked (see `check_images`).
        captions: One or more captions, raw, in the order of the file.
        ranks: Of each caption, from 1 on: `rank` in COCO JSON, 1 where a file with ranks has none;
            empty where the file has no ranks, and the place among the captions counts.
        captions_by: Who wrote the captions, `captions_by` of an image in COCO JSON: "human" or
            other; empty where the file doesn't say.
        start: Where the part of a clip that is captioned begins, in seconds; None for the clip's
            beginning, and for an image.
        end: Where it ends, in seconds; None for the clip's end, and for an image.
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
        """The clip, or the part of it, that is captioned."""
        return ClipPart(self.path, self.start, self.end)

    def ranked(self) -> list[tuple[int, str]]:
        """Each caption with its rank, in the order of the file."""
        ranks = self.ranks or range(1, len(self.captions) + 1)
        return list(zip(ranks, self.captions, strict=True))


def load_records(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    split: Split | None = None,
    *,
    strict: bool = False,
) -> list[Record]:
    """Reads an annotation file; its suffix and content say which kind it is.

    `.json` is COCO captions JSON: `{"images": [{"id", "file_name"}], "annotations": [{"image_id",
    "caption"}]}`, read with pycocotools; or one of Karpathy's files, `dataset_coco.json` and its
    likes, which hold all splits. `.csv` (with a header) and `.jsonl` (an object a line) have
    `image` and `caption`; several rows of an image are gathered, other columns are passed over, and
    so are rows of empty fields. Paths may have backslashes, and blanks around them.

    Clips are read from tables with `clip` in place of `image`, and `start` and `end` in seconds
    where parts of clips are captioned; and from the files of MSVD (`AllVideoDescriptions.txt` or
    its `.csv`, with splits where `youtube_mapping.txt` is beside it), MSR-VTT (`.json`, with
    splits) and VATEX (`.json`), whose clips may have any usual suffix.

    For JSON, folders are tried as the data sets are laid out. With
    `X/annotations/captions_train2017.json`, images are looked for in `X/train2017`,
    `X/images/train2017`, `X/images`, `X` and the folders of Flickr8k and Flickr30k, then likewise
    beside the file; with a given folder, in it and in its `train2017`. The folder that has the most
    of a few images is taken, the first of equals.

    Args:
        annotations: The annotation file, in UTF-8.
        images: The folder that image paths start from; if not given, the folder where the images of
            JSON are found, or else the annotation file's own.
        split: Which split of a Karpathy file; its `restval` belongs to "train". Of MSVD and
            MSR-VTT likewise; other files are taken whole.
        strict: Refuse a split for a file that has none.

    Returns:
        One record for each image that has captions, in the order of the file.

    Raises:
        ConfigError: There is no such split.
        DataError: The file cannot be read or used; the message says where it is wrong.
        MissingExtraError: For COCO JSON without pycocotools.
    """
    path = Path(annotations)
    if split is not None and split not in get_args(Split):
        raise ConfigError(f"There is no split {split!r}; expected {', '.join(get_args(Split))}.")
    try:
        with _collector_paused():  # or COCO's files would take half as long again
            entries, has_splits = _read(path, split)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}){_whence(path)}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not entries:
        raise DataError(f"{path}: no captions in it; expected at least one image with a caption")
    if strict and split is not None and not has_splits:
        raise DataError(
            f"{path}: it has no splits, as Karpathy's files do; leave out --split {split} to take"
            " it whole"
        )
    given = None if images is None else Path(images)
    folder = given or path.parent
    if path.suffix.lower() == ".json" or entries[0].suffixes:
        folder = _find_folder(entries, _folders(path, given), otherwise=folder)
        if given is None:
            logger.info("The images of %s are looked for in %s", path, folder)
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
    """How the file of an entry is written in the file system, with its suffix."""
    if not entry.suffixes:
        return existing_name(folder, entry.name)
    names = [f"{entry.name}{suffix}" for suffix in entry.suffixes]
    return next((name for name in names if os.path.isfile(folder / name)), names[0])


def _merged(entries: Iterable[Entry], folder: Path) -> list[Entry]:
    """Group the rows of a table by image; different spellings of a path are one image."""
    merged: dict[tuple[str, float | None, float | None], Entry] = {}
    for entry in entries:
        name = existing_name(folder, entry.name)
        what = (name, entry.start, entry.end)
        first = merged.get(what, entry._replace(name=name, captions=()))
        merged[what] = first._replace(captions=first.captions + entry.captions)
    return list(merged.values())


def _whence(path: Path) -> str:
    """Which command brings a file that isn't there, for those of COCO."""
    if path.exists() or not _OF_COCO.fullmatch(path.name):
        return ""
    year = " --year 2017" if "2017" in path.name else ""
    return f". COCO is brought into data/coco by: captioner prepare-coco{year}"


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
    """The entries of a file of any kind, and whether the file has splits."""
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        *others, last = FORMATS
        raise DataError(
            f"{path}: annotations must be a {', '.join(others)} or {last} file; .json is COCO's"
            " captions"
        )
    return reader(path, split)


def _folders(path: Path, given: Path | None) -> list[Path]:
    """Where the images of a JSON file may be, the most telling places first."""
    half = path.stem.partition("_")[2]  # train2017 of captions_train2017.json
    if given is not None:
        return [given, given / half]
    roots = (
        [path.parent.parent, path.parent] if path.parent.name == "annotations" else [path.parent]
    )
    names = [half, f"images/{half}", "images", "", *_FLICKR_FOLDERS, *_CLIP_FOLDERS]
    return [root / name for root in roots for name in names]


def _find_folder(entries: Sequence[Entry], folders: Iterable[Path], otherwise: Path) -> Path:
    """The folder that has the most images of a sample; the first of equals."""
    sample = entries[:: max(1, len(entries) // _SAMPLE)][:_SAMPLE]
    counts = {
        folder: sum(os.path.isfile(folder / _existing(folder, entry)) for entry in sample)
        for folder in folders
    }
    best = max(counts, key=lambda folder: counts[folder])
    return best if counts[best] else otherwise


def find_missing(records: Iterable[Record]) -> list[Record]:
    """The records whose image file doesn't exist."""
    return [record for record in records if not os.path.isfile(record.path)]


def check_images(records: Sequence[Record]) -> None:
    """Makes sure that the image file of every record exists.

    Raises:
        DataError: Some are missing; the message names the first few, and the folder they should be
            in.
    """
    missing = [record.path for record in find_missing(records)]
    if missing:
        folders = {path.parent for path in missing}
        where = f" in {missing[0].parent}" if len(folders) == 1 else ""
        named = ", ".join(path.name if where else str(path) for path in missing[:3])
        raise DataError(
            f"{len(missing):,} of {len(records):,} images are missing{where}:"
            f" {named}{', ...' if len(missing) > 3 else ''}{hint(missing[0])}; name the folder that"
            " image paths start from"
        )
