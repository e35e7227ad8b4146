"""Download COCO into a folder.

The folder then looks like this:

    train2014/*.jpg val2014/*.jpg    82,783 and 40,504 images
                                     (2017: 118,287 and 5,000 in train2017/, val2017/)
    annotations/captions_*.json      five captions an image
    dataset_coco.json                Karpathy's splits of COCO 2014
    downloads/                       incomplete downloads, and a list of files for each archive
                                     that was unpacked
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from captioner.datasets.download import (
    PAUSES,
    Report,
    download,
    find_damage,
    in_words,
    log_progress,
    unpack,
    writing,
)
from captioner.errors import DataError

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["annotations", "images"]

DOWNLOADS = "downloads"
_BLOCK = 4096  # bytes: file systems give files whole blocks

# The bucket behind images.cocodataset.org, whose own certificate is that of s3.amazonaws.com.
_COCO = "https://s3.amazonaws.com/images.cocodataset.org"
_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent"


@dataclass(frozen=True)
class Archive:
    """A ZIP archive on a server, and which of its files to unpack.

    Args:
        server: Its server, unless a mirror is given.
        path: Its path on the server or mirror.
        kind: The kind of its contents.
        size: Bytes of the archive.
        sha256: Its checksum.
        members: Names or patterns of the files to unpack; they keep their names.
        unpacked: Approximate bytes of these files on disk.
    """

    server: str
    path: str
    kind: Kind
    size: int
    sha256: str
    members: tuple[str, ...]
    unpacked: int

    @property
    def name(self) -> str:
        """The file name."""
        return PurePosixPath(self.path).name

    def url(self, mirror: str | None = None) -> str:
        """Build its URL."""
        return f"{(mirror or self.server).rstrip('/')}/{self.path}"


# Sizes and checksums are those of TensorFlow Datasets (url_checksums/coco_captions.txt); other
# projects state the same.
# Small ones first, then those with most images: while an archive is unpacked, its images are on
# disk twice, which needs the least space while there are no others.
COCO: dict[int, tuple[Archive, ...]] = {
    2014: (
        Archive(
            server=_COCO,
            path="annotations/annotations_trainval2014.zip",
            kind="annotations",
            size=252_872_794,
            sha256="031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
            members=("annotations/captions_train2014.json", "annotations/captions_val2014.json"),
            unpacked=99_220_000,
        ),
        Archive(
            server=_KARPATHY,
            path="caption_datasets.zip",
            kind="annotations",
            size=36_745_453,
            sha256="4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
            members=("dataset_coco.json",),
            unpacked=144_190_000,
        ),
        Archive(
            server=_COCO,
            path="zips/train2014.zip",
            kind="images",
            size=13_510_573_713,
            sha256="ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
            members=("train2014/*.jpg",),
            unpacked=13_670_000_000,
        ),
        Archive(
            server=_COCO,
            path="zips/val2014.zip",
            kind="images",
            size=6_645_013_297,
            sha256="fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
            members=("val2014/*.jpg",),
            unpacked=6_730_000_000,
        ),
    ),
    2017: (
        Archive(
            server=_COCO,
            path="annotations/annotations_trainval2017.zip",
            kind="annotations",
            size=252_907_541,
            sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            members=("annotations/captions_train2017.json", "annotations/captions_val2017.json"),
            unpacked=95_750_000,
        ),
        Archive(
            server=_COCO,
            path="zips/train2017.zip",
            kind="images",
            size=19_336_861_798,
            sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            members=("train2017/*.jpg",),
            unpacked=19_570_000_000,
        ),
        Archive(
            server=_COCO,
            path="zips/val2017.zip",
            kind="images",
            size=815_585_330,
            sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            members=("val2017/*.jpg",),
            unpacked=830_000_000,
        ),
    ),
}


def prepare_coco(
    folder: Path,
    archives: Sequence[Archive],
    *,
    mirror: str | None = None,
    report: Report | None = None,
    pauses: Sequence[float] = PAUSES,
) -> None:
    """Download archives and unpack them into a folder, except what is already there.

    They are downloaded, checked, unpacked and deleted one by one. After an interruption, the next
    call resumes. Unpacked files are identified by their names and sizes: if all are there, no
    server is contacted; if some are missing, their archive is downloaded again. An archive in the
    folder itself is checked and used instead of a download, and is not deleted.

    Args:
        folder: The target folder.
        archives: `COCO[2014]`, `COCO[2017]` or some of their archives.
        mirror: URL of another server instead of `Archive.server`, with the same paths
            (MIRROR/zips/train2014.zip, MIRROR/annotations/annotations_trainval2014.zip,
            MIRROR/caption_datasets.zip, ...).
        report: Called with the progress; if None, it is logged.
        pauses: Seconds to wait before each further attempt when a connection fails.

    Raises:
        DataError: A file cannot be downloaded or written, or is damaged, the disk has too little
            space, or another process is filling the folder.
    """
    if not _find_missing(folder, archives):
        logger.info("All files are already in %s.", folder)
        return
    with _alone(folder):
        missing = _find_missing(
            folder, archives
        )  # check again: another process may have filled the folder until now
        _check_space(folder, missing)
        for archive in missing:
            _bring(folder, archive, mirror, report or log_progress(), pauses)
    logger.info("All files are now in %s.", folder)


def _find_missing(folder: Path, archives: Sequence[Archive]) -> list[Archive]:
    """List the archives that are not unpacked; delete the downloads of the others."""
    missing = [archive for archive in archives if not _is_unpacked(folder, archive)]
    for archive in archives:
        if archive not in missing:
            _tidy(folder, archive)
    return missing


def _bring(
    folder: Path, archive: Archive, mirror: str | None, report: Report, pauses: Sequence[float]
) -> None:
    source, record = folder / archive.name, _record(folder, archive)
    if source.exists():
        if damage := find_damage(source, size=archive.size, sha256=archive.sha256, report=report):
            raise DataError(f"{source}: {damage}. Delete it to download it again, or replace it.")
    else:
        source = folder / DOWNLOADS / archive.name
        if record.exists():
            logger.warning(
                "Some files of %s are missing in %s; downloading it again", archive.name, folder
            )
        url = archive.url(mirror)
        logger.info("%s (%s)", url, in_words(archive.size))
        advice = (
            "Try another server (--mirror URL), or put the file there yourself:"
            f" {folder / archive.name}"
        )
        download(
            url,
            source,
            size=archive.size,
            sha256=archive.sha256,
            report=report,
            pauses=pauses,
            advice=advice,
        )
    files = unpack(source, folder, archive.members, report)
    temporary = record.with_name(f"{record.name}.part")
    with writing(record):
        temporary.write_text(
            json.dumps({"sha256": archive.sha256, "files": files}), encoding="utf-8"
        )
        temporary.replace(record)
    _tidy(folder, archive)


def _tidy(folder: Path, archive: Archive) -> None:
    """Delete the download of an unpacked archive."""
    for name in (archive.name, f"{archive.name}.part"):
        path = folder / DOWNLOADS / name
        if path.exists():  # on a read-only disk, unlinking a missing file fails
            path.unlink()


def _record(folder: Path, archive: Archive) -> Path:
    """Return the path of the list of an archive's files, written once all are unpacked."""
    return folder / DOWNLOADS / f"{archive.name}.json"


def _is_unpacked(folder: Path, archive: Archive) -> bool:
    """Tell whether every file of an archive exists with the right size."""
    try:
        record = json.loads(_record(folder, archive).read_text(encoding="utf-8"))
        return record["sha256"] == archive.sha256 and all(
            (folder / name).stat().st_size == size for name, size in record["files"].items()
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # no such file, or not written by us
        return False


def _check_space(folder: Path, archives: Sequence[Archive]) -> None:
    """Fail if the disk has too little space."""
    needed = _space(folder, archives)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder} needs {in_words(needed)} of free disk, and has {in_words(free)}: free"
            f" {in_words(needed - free)} more, or name a folder on another disk (--folder)."
        )


def _space(folder: Path, archives: Sequence[Archive]) -> int:
    """Compute the peak disk usage: an archive, its files, and the files of those before it."""
    kept = most = 0
    for archive in archives:
        target = folder / DOWNLOADS / archive.name
        there = max(_on_disk([target]), _on_disk([target.with_name(f"{target.name}.part")]))
        to_load = 0 if (folder / archive.name).exists() else max(0, archive.size - there)
        to_unpack = max(
            0,
            archive.unpacked
            - _on_disk(found for name in archive.members for found in folder.glob(name)),
        )
        most = max(most, kept + to_load + to_unpack)
        kept += to_unpack - there  # the archive is deleted
    return most


def _on_disk(paths: "Iterator[Path] | list[Path]") -> int:
    return sum(-(-path.stat().st_size // _BLOCK) * _BLOCK for path in paths if path.is_file())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder against other processes, if the system has locks that end with a process."""
    with writing(folder):
        (folder / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        file = (folder / DOWNLOADS / "lock").open("w")
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"Another process is filling {folder}; wait for it, then try again."
            ) from error
        except (ImportError, OSError):  # Windows; a network disk without locks
            logger.debug("%s cannot be locked", folder)
        yield
