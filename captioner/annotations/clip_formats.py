"""Read video captioning data sets in their published formats: MSVD, MSR-VTT and VATEX (English)."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from captioner.annotations.entries import Entry, add_id, get_caption, get_text, invalid_csv
from captioner.errors import DataError

SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov")  # tried where annotations give no file name

_MSVD_COLUMNS = frozenset({"VideoID", "Start", "End", "Language", "Description"})
_MSVD_NAME = re.compile(r"\S+_\d+_\d+")  # VideoID_Start_End
_MSVD_MAPPING = "youtube_mapping.txt"  # clip names and numbers, counted from 1
# The first and last clip number of each split (Venugopalan et al. 2015): 1,200, 100, 670 clips.
_MSVD_SPLITS = {"train": (1, 1200), "val": (1201, 1300), "test": (1301, 1970)}
_MSRVTT_SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}


def is_msrvtt(dataset: Any) -> bool:
    """Return whether this is an MSR-VTT file, which has lists of videos and sentences."""
    return isinstance(dataset, dict) and all(
        isinstance(dataset.get(key), list) for key in ("videos", "sentences")
    )


def read_msrvtt(path: Path, dataset: Any, split: str | None) -> list[Entry]:
    """Read one split of MSR-VTT (Xu et al. 2016), such as `train_val_videodatainfo.json`.

    The file has the form `{"videos": [{"video_id": "video0", "split": "train"}], "sentences":
    [{"video_id", "caption"}]}`. Its "start time" and "end time" refer to the video on YouTube, not
    to the clip's file, and are ignored.

    Args:
        path: The file, for messages.
        dataset: The parsed content of the file.
        split: "train", "val" (called "validate" in the file) or "test".

    Returns:
        The clips of the split that have captions.

    Raises:
        DataError: The file is malformed, no split was given, or the split has no clips.
    """
    splits: dict[str, str] = {}
    ids: set[int | str] = set()
    for number, video in enumerate(dataset["videos"]):
        where = f"{path}, videos[{number}]"
        name, its_split = (get_text(where, video, key) for key in ("video_id", "split"))
        add_id(where, ids, name, "video")
        if its_split not in _MSRVTT_SPLITS:
            raise DataError(
                f'{where}: "split" is {its_split!r}; expected one of {", ".join(_MSRVTT_SPLITS)}'
            )
        splits[name] = _MSRVTT_SPLITS[its_split]
    captions: dict[str, list[str]] = {name: [] for name in splits}
    for number, sentence in enumerate(dataset["sentences"]):
        where = f"{path}, sentences[{number}]"
        name = get_text(where, sentence, "video_id")
        if name not in captions:
            raise DataError(f'{where}: video {name!r} is not among the "videos"')
        captions[name].append(get_caption(where, sentence, "caption"))
    return _of_split(path, captions, splits, split)


def is_vatex(dataset: Any) -> bool:
    """Return whether this is a VATEX file: a list of videos with their captions."""
    return (
        isinstance(dataset, list)
        and bool(dataset)
        and isinstance(dataset[0], dict)
        and "videoID" in dataset[0]
    )


def read_vatex(path: Path, dataset: Any) -> list[Entry]:
    """Read a VATEX file (Wang et al. 2019), such as `vatex_training_v1.0.json`.

    Each split has its own file, of the form `[{"videoID": "YOUTUBE_000010_000020", "enCap":
    [...]}]`. A clip's file is named after its `videoID`.

    Args:
        path: The file, for messages.
        dataset: The parsed content of the file.

    Returns:
        The clips.

    Raises:
        DataError: The file is malformed.
    """
    entries = []
    ids: set[int | str] = set()
    for number, video in enumerate(dataset):
        where = f"{path}, [{number}]"
        name = get_text(where, video, "videoID")
        add_id(where, ids, name, "video")
        captions = video.get("enCap")
        if not isinstance(captions, list) or not captions:
            raise DataError(
                f'{where}: expected "enCap", a list of captions; the private test split has none'
            )
        texts = (
            get_caption(f"{where}, enCap[{k}]", {"enCap": text}, "enCap")
            for k, text in enumerate(captions)
        )
        entries.append(_entry(name, texts))
    return entries


def is_msvd(columns: Iterable[str]) -> bool:
    """Return whether a CSV file with these columns is MSVD's."""
    return set(columns) >= _MSVD_COLUMNS


def read_msvd_csv(path: Path, split: str | None) -> tuple[list[Entry], bool]:
    """Read MSVD's table (Chen and Dolan 2011), `MSR Video Description Corpus.csv`.

    A clip's file is named `VideoID_Start_End.avi`. Only English descriptions are read.

    Args:
        path: The file.
        split: See `read_msvd_text`.

    Returns:
        The clips, and whether the file has splits.

    Raises:
        DataError: The file is malformed.
    """
    captions: dict[str, list[str]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                text = (row["Description"] or "").strip()
                if (row["Language"] or "").strip() == "English" and text:
                    name = "_".join((row[key] or "").strip() for key in ("VideoID", "Start", "End"))
                    captions.setdefault(name, []).append(text)
        except csv.Error as error:
            raise invalid_csv(path, reader.line_num + 1, error) from error
    return _msvd_split(path, captions, split)


def read_msvd_text(path: Path, split: str | None) -> tuple[list[Entry], bool]:
    """Read MSVD's `AllVideoDescriptions.txt`, which has a clip name and a caption per line.

    With `youtube_mapping.txt` (a clip name and `vid1` to `vid1970` per line) in the same folder,
    the usual splits are available: 1,200 training, 100 validation and 670 test clips.

    Args:
        path: The file.
        split: "train", "val" or "test"; ignored without splits.

    Returns:
        The clips, and whether the file has splits.

    Raises:
        DataError: The file is malformed.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, text = line.strip().partition(" ")
        if not text.strip() or not _MSVD_NAME.fullmatch(name):
            raise DataError(
                f"{path}, line {number}: expected a clip name and a caption, as in MSVD's"
                " AllVideoDescriptions.txt"
            )
        captions.setdefault(name, []).append(text.strip())
    return _msvd_split(path, captions, split)


def _msvd_split(
    path: Path, captions: Mapping[str, list[str]], split: str | None
) -> tuple[list[Entry], bool]:
    mapping = path.parent / _MSVD_MAPPING
    if not mapping.is_file():
        return [_entry(name, texts) for name, texts in captions.items()], False
    splits = {}
    for number, line in enumerate(mapping.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        found = re.fullmatch(r"(\S+)\s+vid(\d+)", line.strip())
        where = f"{mapping}, line {number}"
        if found is None:
            raise DataError(f"{where}: expected a clip name and a number such as vid1")
        for name, (first, last) in _MSVD_SPLITS.items():
            if first <= int(found[2]) <= last:
                splits[found[1]] = name
    missing = [name for name in captions if name not in splits]
    if missing:
        raise DataError(f"{path}: clip {missing[0]} is missing from {mapping}")
    return _of_split(path, captions, splits, split), True


def _of_split(
    path: Path,
    captions: Mapping[str, list[str]],
    splits: Mapping[str, str],
    split: str | None,
) -> list[Entry]:
    """Return the clips of a split that have captions."""
    chosen = [
        _entry(name, texts) for name, texts in captions.items() if texts and splits[name] == split
    ]
    if not chosen:
        sizes = Counter(splits[name] for name, texts in captions.items() if texts)
        held = ", ".join(f"{name} ({size:,})" for name, size in sizes.items())
        what = "no split given" if split is None else f"no clips in split {split!r}"
        raise DataError(f"{path}: {what}; expected one of {held or 'train, val, test'}")
    return chosen


def _entry(name: str, captions: Iterable[str]) -> Entry:
    return Entry(name, name, tuple(captions), suffixes=SUFFIXES)
