"""Write captions to XMP sidecars next to photos, or to the photos themselves with ExifTool.

A caption that a person wrote, wherever it is stored, is kept unless replacing it is requested. Our
captions are marked with their run: the same run skips them, and another model replaces only our own
captions.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from captioner.caption import Caption
from captioner.errors import ConfigError, DataError
from captioner.files import replacing
from captioner.images.formats import RAW_SUFFIXES
from captioner.library.embedded import read_embedded
from captioner.library.xmp import MARK, Mark, Packet


@dataclass(frozen=True)
class Rules:
    """Which metadata to write, and which to keep.

    Attributes:
        run: The identity of the model and the options; the same run skips its own captions.
        language: The language of the captions, such as "en".
        tags: Whether to add the caption's tags to the keywords.
        replace: Whether to replace captions by people too.
        by_stem: Whether the sidecar of photo.jpg is photo.xmp instead of photo.jpg.xmp.
    """

    run: str
    language: str = "en"
    tags: bool = False
    replace: bool = False
    by_stem: bool = False

    def captions(self, packet: Packet, foreign: bool) -> bool:
        """Return whether to write our caption to the packet.

        Args:
            packet: The packet that would be written.
            foreign: Whether the photo has a caption by a person somewhere else.
        """
        done = packet.mark.run == self.run
        if packet.has_own_caption:
            return not done and (self.replace or not foreign)
        if self.replace:
            return True
        return not (done or foreign or packet.captions)

    def wants(self, packet: Packet, foreign: bool) -> bool:
        """Return whether there is anything to write."""
        return self.captions(packet, foreign) or (self.tags and packet.mark.run != self.run)

    def apply(self, packet: Packet, caption: Caption, foreign: bool) -> "Change":
        """Apply the rules to a packet, and return the changes."""
        text = caption.text if self.captions(packet, foreign) else ""
        before = packet.mark
        added = before.tags
        if text:
            packet.set_caption(text, self.language)
        if self.tags:
            added = packet.change_keywords(before.tags, [tag.noun for tag in caption.tags])
        mark = Mark(self.run, text or before.caption, added)
        packet.set_mark(mark)
        return Change(text, tuple(word for word in before.tags if word not in added), mark)


@dataclass(frozen=True)
class Change:
    """The changes to a packet.

    Attributes:
        caption: The new caption; "" if there is none.
        removed: Our own keywords that were removed.
        mark: The new mark.
    """

    caption: str
    removed: tuple[str, ...]
    mark: Mark


class PhotoStore(Protocol):
    """Keeps captions with their photos."""

    def holds(self, photo: str) -> bool:
        """Return whether there is nothing to do for a photo."""

    def save(self, photo: str, caption: Caption) -> None:
        """Write the caption of a photo.

        Raises:
            DataError: Existing metadata cannot be read or changed; it is left unchanged.
            OSError: The file cannot be written.
        """


class Sidecars:
    """XMP sidecars next to photos: photo.jpg.xmp, or photo.xmp.

    All other content of an existing sidecar is kept.

    Args:
        rules: What to write, and what to keep.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        Packet()  # fails early if lxml is missing

    def holds(self, photo: str) -> bool:
        """Return whether there is nothing to do for a photo."""
        try:
            packet = _read_sidecar(sidecar_of(photo, by_stem=self.rules.by_stem)) or Packet()
            return not self.rules.wants(packet, self._foreign(photo))
        except (DataError, OSError):
            return False  # `save` reports the error

    def save(self, photo: str, caption: Caption) -> None:
        """Write the sidecar of a photo.

        Raises:
            DataError: An existing sidecar is damaged; it is left unchanged.
            OSError: A sidecar cannot be read or written.
        """
        path = sidecar_of(photo, by_stem=self.rules.by_stem)
        packet = _read_sidecar(path) or Packet()
        foreign = self._foreign(photo)
        if self.rules.wants(packet, foreign):
            self.rules.apply(packet, caption, foreign)
            with replacing(path) as partial:
                partial.write_bytes(packet.to_bytes())

    def _foreign(self, photo: str) -> bool:
        if self.rules.replace:  # then it doesn't matter
            return False
        other = sidecar_of(photo, by_stem=not self.rules.by_stem)
        return _is_foreign(other) or read_embedded(photo).has_foreign_caption


class Photos:
    """Captions inside the photos, written by ExifTool, which keeps a backup: photo.jpg_original.

    Args:
        rules: What to write, and what to keep.

    Raises:
        ConfigError: ExifTool is not installed.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        program = shutil.which("exiftool")
        if program is None:
            raise ConfigError(
                "--embed requires ExifTool, which is not installed (on Debian: apt install"
                " libimage-exiftool-perl). --xmp works without it."
            )
        self._program = program
        Packet()

    def holds(self, photo: str) -> bool:
        """Return whether there is nothing to do for a photo."""
        try:
            packet, foreign = self._read(photo)
        except (DataError, OSError):
            return False  # `save` reports the error
        return not self.rules.wants(packet, foreign)

    def save(self, photo: str, caption: Caption) -> None:
        """Write the caption into a photo, and keep a backup of the original.

        Raises:
            DataError: ExifTool cannot write the file, it is a camera raw file, or a sidecar is
                damaged; the photo is left unchanged.
            OSError: A sidecar cannot be read.
        """
        if Path(photo).suffix.lower() in RAW_SUFFIXES:
            raise DataError("is a camera raw file, which is left unchanged; use --xmp")
        packet, foreign = self._read(photo)
        if self.rules.wants(packet, foreign):
            self._write(photo, self.rules.apply(packet, caption, foreign))

    def _read(self, photo: str) -> tuple[Packet, bool]:
        embedded = read_embedded(photo)
        packet = embedded.packet or Packet()
        if self.rules.replace:  # then captions elsewhere don't matter
            return packet, False
        sidecars = any(_is_foreign(sidecar_of(photo, by_stem=form)) for form in (False, True))
        return packet, sidecars or any(text != packet.mark.caption for text in embedded.texts)

    def _write(self, photo: str, change: Change) -> None:
        mark, tags = change.mark, "; ".join(change.mark.tags)
        values = [f"-XMP-captioner:run={mark.run}", f"-XMP-captioner:caption={mark.caption}"]
        values += [f"-XMP-captioner:tags={tags}"]
        values += [f"-XMP-dc:subject-={word}" for word in (*change.removed, *mark.tags)]
        values += [f"-XMP-dc:subject+={word}" for word in mark.tags]
        if change.caption:
            values.append(f"-XMP-dc:description-x-default={change.caption}")
            values.append(f"-XMP-dc:description-{self.rules.language}={change.caption}")
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "captioner.config")
            config.write_text(_EXIFTOOL_CONFIG, encoding="utf-8")
            command = [self._program, "-config", str(config), "-P", *values]
            status, errors = _run_to_end([*command, os.path.abspath(photo)])
        if status:
            said = errors.strip().splitlines() or ["no error message"]
            raise DataError(f"ExifTool cannot write into it ({said[0]})")


_EXIFTOOL_CONFIG = f"""\
%Image::ExifTool::UserDefined = (
    'Image::ExifTool::XMP::Main' => {{
        captioner => {{
            SubDirectory => {{ TagTable => 'Image::ExifTool::UserDefined::captioner' }},
        }},
    }},
);
%Image::ExifTool::UserDefined::captioner = (
    GROUPS => {{ 0 => 'XMP', 1 => 'XMP-captioner', 2 => 'Image' }},
    NAMESPACE => {{ 'captioner' => '{MARK}' }},
    WRITABLE => 'string',
    run => {{ }},
    caption => {{ }},
    tags => {{ }},
);
1;
"""


def _run_to_end(command: list[str]) -> tuple[int, str]:
    """Run a program that our signals don't interrupt; return its status and its stderr."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate()
    finally:
        process.wait()
    return process.returncode, errors.decode(errors="replace")


def sidecar_of(photo: str | os.PathLike[str], *, by_stem: bool) -> Path:
    """Return the path of a photo's sidecar: photo.jpg.xmp, or photo.xmp `by_stem`."""
    path = Path(photo)
    return path.with_suffix(".xmp") if by_stem else path.with_name(f"{path.name}.xmp")


def _read_sidecar(path: Path) -> Packet | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Packet(data)
    except DataError as error:
        raise DataError(f"its sidecar {path} {error}; it is left unchanged") from error


def _is_foreign(path: Path) -> bool:
    """Return whether a sidecar has a caption by a person."""
    packet = _read_sidecar(path)
    return packet is not None and bool(packet.captions) and not packet.has_own_caption
