"""The file suffixes of clips, and the FFmpeg containers that are supported."""

import logging
import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

logger = logging.getLogger(__name__)

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mpe", ".m2v", ".mts",
    ".m2ts", ".vob", ".ogv", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2", ".mxf", ".dv", ".rm",
    ".rmvb", ".divx", ".y4m",
})
# fmt: on
"""The file suffixes of clips. Not `.ts`: most such files are source code."""

# Demuxers of playlists, which refer to other files or servers, of devices and screens, and those
# that read any text as a picture. Images are read by `captioner.images`.
# fmt: off
_UNSAFE = {
    "concat", "concatf", "dash", "fbdev", "ffmetadata", "hds", "hls", "imf", "kmsgrab", "lavfi",
    "rtp", "rtsp", "sap", "sdp", "v4l2", "video4linux2", "webm_dash_manifest", "x11grab", "adf",
    "bin", "idf", "tty", "xbin",
}
# fmt: on
_IMAGES = {"image2", "image2pipe", "ico", "webp", "avif"}


def is_clip(path: object) -> bool:
    """Return whether a path is a clip, judging by its suffix."""
    return (
        isinstance(path, (str, os.PathLike))
        and Path(os.fsdecode(path)).suffix.lower() in VIDEO_SUFFIXES
    )


def can_read_clips() -> bool:
    """Return whether the extra `video`, which reads clips, is installed."""
    return find_spec("av") is not None


def find_media(path: str | os.PathLike[str], *, photos_only: str | None = None) -> Iterator[Path]:
    """Find the images below a folder, and the clips if they can be read.

    Otherwise clips are skipped, and a final warning says how many and why.

    Args:
        path: The folder.
        photos_only: The option that applies only to photos, for the warning; None to find clips
            too, which requires the extra `video`.

    Returns:
        An iterator over the paths, as for `captioner.images.find_images`.

    Raises:
        ImageError: The folder does not exist.
    """
    from captioner.images import IMAGE_SUFFIXES, find_images  # here, as it loads Pillow

    found = find_images(path, suffixes=IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    if photos_only is not None:
        return _without_clips(Path(path), found, f"{photos_only} applies to photos")
    if can_read_clips():
        return found
    why = "reading clips requires the extra video (pip install 'captioner[video]')"
    return _without_clips(Path(path), found, why)


def _without_clips(folder: Path, found: Iterator[Path], why: str) -> Iterator[Path]:
    left_out = 0
    for path in found:
        if is_clip(path):
            left_out += 1
        else:
            yield path
    if left_out:
        logger.warning(
            "%s: skipped %d %s; %s.",
            folder,
            left_out,
            "clip" if left_out == 1 else "clips",
            why,
        )


@cache
def demuxers() -> str:
    """Return FFmpeg's demuxers that may open a file, as a value of `format_whitelist`."""
    import av

    return ",".join(
        sorted(
            name
            for name in av.formats_available
            if not _UNSAFE.intersection(name.split(",")) and name not in _IMAGES
        )
    )
