"""Annotations of clips as their data sets publish them: MSVD, MSR-VTT, VATEX. English captions."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from captioner.annotations.entries import Entry, add_id, get_caption, get_text
from captioner.errors import DataError

SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov")  # of a clip whose annotations name no file

_MSVD_COLUMNS = frozenset({"VideoID", "Start", "End", "Language", "Description"})
_MSVD_NAME = re.compile(r"\S+_\d+_\d+")  # VideoID_Start_End
_MSVD_MAPPING = "youtube_mapping.txt"  # clips' names and numbers, from 1 on
# The clips of each split, by their numbers (Venugopalan et al. 2015): 1,200, 100 and 670.
_MSVD_SPLITS = {"train": (1, 1200), "val": (1201, 1300), "test": (1301, 1970)}
_MSRVTT_SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}


def is_msrvtt(dataset: Any) -> bool:
    """Whether this is a file of MSR-VTT: lists of videos, and of sentences about them."""
    return isinstance(dataset, dict) and all(
        isinstance(dataset.get(key), list) for key in ("videos", "sentences")
    )


def read_msrvtt(path: Path, dataset: Any, split: str | None) -> list[Entry]:
    """The clips of a split of MSR-VTT (Xu et al. 2016), such as `train_val_videodatainfo.json`.

    It holds `{"videos": [{"video_id": "video0", "split": "train"}], "sentences": [{"video_id",
    "caption"}]}`. Its "start time" and "end time" are of the video on YouTube, not of the file.

    Args:
        path: The file, for messages.
        dataset: What stands in it.
        split: "train", "val" (which the file calls "validate") or "test".

    Raises:
        DataError: Something is wrong in it, no split was named, or the split has no clips.
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
    """Whether this is a file of VATEX: a list of videos that know their captions."""
    return (
        isinstance(dataset, list)
        and bool(dataset)
        and isinstance(dataset[0], dict)
        and "videoID" in dataset[0]
    )


def read_vatex(path: Path, dataset: Any) -> list[Entry]:
    """The clips of a file of VATEX (Wang et al. 2019), such as `vatex_training_v1.0.json`.

    It holds `[{"videoID": "YOUTUBE_000010_000020", "enCap": [...]}]`, a file for each split; clips
    are files of the name `videoID`.

    Args:
        path: The file, for messages.
        dataset: What stands in it.

    Raises:
        DataError: Something is wrong in it.
    """
    entries = []
    ids: set[int | str] = set()
    for number, video in enumerate(dataset):
        where = f"{path}, [{number}]"
        if not isinstance(video, dict):
            raise DataError(f"{where}: expected a JSON object")
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
    """Whether these are the columns of MSVD's table."""
    return set(columns) >= _MSVD_COLUMNS


def read_msvd_csv(path: Path, split: str | None) -> tuple[list[Entry], bool]:
    """The clips of MSVD's table (Chen and Dolan 2011), `MSR Video Description Corpus.csv`.

    A clip is a file `VideoID_Start_End.avi`. Descriptions in other languages are passed over.

    Args:
        path: The file.
        split: See `read_msvd_text`.

    Raises:
        DataError: Something is wrong in it.
    """
    captions: dict[str, list[str]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            text = (row["Description"] or "").strip()
            if (row["Language"] or "").strip() == "English" and text:
                name = "_".join((row[key] or "").strip() for key in ("VideoID", "Start", "End"))
                captions.setdefault(name, []).append(text)
    return _msvd_split(path, captions, split)


def read_msvd_text(path: Path, split: str | None) -> tuple[list[Entry], bool]:
    """The clips of MSVD's `AllVideoDescriptions.txt`: a clip's name and a caption a line.

    Where `youtube_mapping.txt`, a clip's name and `vid1` to `vid1970` a line, is beside it, it has
    the splits in common use: the first 1,200 clips to train on, 100 to validate on, 670 to test on.

    Args:
        path: The file.
        split: "train", "val" or "test"; of a file with splits only.

    Returns:
        The clips, and whether there are splits.

    Raises:
        DataError: Something is wrong in it.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, text = line.strip().partition(" ")
        if not text.strip() or not _MSVD_NAME.fullmatch(name):
            raise DataError(
                f"{path}, line {number}: expected a clip's name and a caption, as in MSVD's"
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
            raise DataError(f"{where}: expected a clip's name and its number, such as vid1")
        for name, (first, last) in _MSVD_SPLITS.items():
            if first <= int(found[2]) <= last:
                splits[found[1]] = name
    missing = [name for name in captions if name not in splits]
    if missing:
        raise DataError(f"{path}: the clip {missing[0]} is not in {mapping}")
    return _of_split(path, captions, splits, split), True


def _of_split(
    path: Path,
    captions: Mapping[str, list[str]],
    splits: Mapping[str, str],
    split: str | None,
) -> list[Entry]:
    """The clips of a split that have captions."""
    chosen = [
        _entry(name, texts) for name, texts in captions.items() if texts and splits[name] == split
    ]
    if not chosen:
        sizes = Counter(splits[name] for name, texts in captions.items() if texts)
        held = ", ".join(f"{name} ({size:,})" for name, size in sizes.items())
        what = "no split was named" if split is None else f"no clips of the split {split!r} in it"
        raise DataError(f"{path}: {what}; expected one of {held or 'train, val, test'}")
    return chosen


def _entry(name: str, captions: Iterable[str]) -> Entry:
    return Entry(name, name, tuple(captions), suffixes=SUFFIXES)
