"""What clips are called, and which of FFmpeg's containers are read."""

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
"""What the names of clips end in. Not `.ts`: most such files hold source code."""

# Demuxers of playlists, which name other files or servers, of devices and screens, and of what
# takes any text for a picture. Images have a room of their own.
# fmt: off
_UNSAFE = {
    "concat", "concatf", "dash", "fbdev", "ffmetadata", "hds", "hls", "imf", "kmsgrab", "lavfi",
    "rtp", "rtsp", "sap", "sdp", "v4l2", "video4linux2", "webm_dash_manifest", "x11grab", "adf",
    "bin", "idf", "tty", "xbin",
}
# fmt: on
_IMAGES = {"image2", "image2pipe", "ico", "webp", "avif"}


def is_clip(path: object) -> bool:
    """Whether a path names a clip, by what it ends in."""
    return (
        isinstance(path, (str, os.PathLike))
        and Path(os.fsdecode(path)).suffix.lower() in VIDEO_SUFFIXES
    )


def can_read_clips() -> bool:
    """Whether what reads clips is installed: the extra `video`."""
    return find_spec("av") is not None


def find_media(path: str | os.PathLike[str], *, clips: bool = True) -> Iterator[Path]:
    """Find the images below a folder, and the clips if they can be read.

    Where the extra `video` is not installed, clips are left out, and a warning at the end says how
    many and what to install.

    Args:
        path: The folder.
        clips: Whether clips are wanted.

    Returns:
        As `captioner.images.find_images`.

    Raises:
        ImageError: There is no such folder.
    """
    from captioner.images import IMAGE_SUFFIXES, find_images  # here, as it loads Pillow

    if not clips:
        return find_images(path)
    found = find_images(path, suffixes=IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    return found if can_read_clips() else _without_clips(Path(path), found)


def _without_clips(folder: Path, found: Iterator[Path]) -> Iterator[Path]:
    left_out = 0
    for path in found:
        if is_clip(path):
            left_out += 1
        else:
            yield path
    if left_out:
        logger.warning(
            "%s: left out %d %s, as what reads them is not installed (pip install"
            " 'captioner[video]').",
            folder,
            left_out,
            "clip" if left_out == 1 else "clips",
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
