"""Captions beside photos, in XMP sidecars, or in the photos themselves by ExifTool.

A caption that a person wrote, wherever it is, is kept unless its replacement is asked for. What we
write is marked with a run: the same run finds nothing left to do, another model replaces our own
captions alone.
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
    """What is written, and what is kept.

    Attributes:
        run: What identifies the model and the options; the same run does nothing twice.
        language: The language of the captions, such as "en".
        tags: Whether the caption's tags are added to the keywords.
        replace: Whether captions by people are replaced too.
        by_stem: Whether the sidecar of photo.jpg is photo.xmp instead of photo.jpg.xmp.
    """

    run: str
    language: str = "en"
    tags: bool = False
    replace: bool = False
    by_stem: bool = False

    def captions(self, packet: Packet, foreign: bool) -> bool:
        """Whether the packet is to get our caption.

        Args:
            packet: The packet that would be written.
            foreign: Whether a person's caption of the photo is somewhere else.
        """
        done = packet.mark.run == self.run
        if packet.has_own_caption:
            return not done and (self.replace or not foreign)
        if self.replace:
            return True
        return not (done or foreign or packet.captions)

    def wants(self, packet: Packet, foreign: bool) -> bool:
        """Whether there is anything to write."""
        return self.captions(packet, foreign) or (self.tags and packet.mark.run != self.run)

    def apply(self, packet: Packet, caption: Caption, foreign: bool) -> "Change":
        """Change a packet as wanted, and say what has changed."""
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
    """What was changed in a packet.

    Attributes:
        caption: The new caption; "" if there is none.
        removed: Keywords of ours that were removed.
        mark: What was noted.
    """

    caption: str
    removed: tuple[str, ...]
    mark: Mark


class PhotoStore(Protocol):
    """Keeps captions with their photos."""

    def holds(self, photo: str) -> bool:
        """Whether there is nothing to do for a photo."""

    def save(self, photo: str, caption: Caption) -> None:
        """Write what is to be written of a photo.

        Raises:
            DataError: What is there cannot be read or changed, and stays as it is.
            OSError: It cannot be written.
        """


class Sidecars:
    """XMP sidecars next to photos: photo.jpg.xmp, or photo.xmp.

    Everything else in a sidecar that is there stays as it is.

    Args:
        rules: What is written, and what is kept.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        Packet()  # so that a missing lxml is known before anything runs

    def holds(self, photo: str) -> bool:
        """Whether there is nothing to do for a photo."""
        try:
            packet = _read_sidecar(sidecar_of(photo, by_stem=self.rules.by_stem)) or Packet()
        except (DataError, OSError):
            return False  # `save` says what is wrong
        return not self.rules.wants(packet, self._foreign(photo))

    def save(self, photo: str, caption: Caption) -> None:
        """Write the sidecar of a photo.

        Raises:
            DataError: The sidecar that is there is damaged; it stays as it is.
            OSError: It cannot be read or written.
        """
        path = sidecar_of(photo, by_stem=self.rules.by_stem)
        packet = _read_sidecar(path) or Packet()
        foreign = self._foreign(photo)
        if self.rules.wants(packet, foreign):
            self.rules.apply(packet, caption, foreign)
            with replacing(path) as partial:
                partial.write_bytes(packet.to_bytes())

    def _foreign(self, photo: str) -> bool:
        other = sidecar_of(photo, by_stem=not self.rules.by_stem)
        return _is_foreign(other) or read_embedded(photo).has_foreign_caption


class Photos:
    """Captions inside the photos, written by ExifTool, which keeps a copy: photo.jpg_original.

    Args:
        rules: What is written, and what is kept.

    Raises:
        ConfigError: ExifTool is not installed.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        program = shutil.which("exiftool")
        if program is None:
            raise ConfigError(
                "--embed needs ExifTool, which is not installed (on Debian: apt install"
                " libimage-exiftool-perl). --xmp needs no other program."
            )
        self._program = program
        Packet()

    def holds(self, photo: str) -> bool:
        """Whether there is nothing to do for a photo."""
        packet, foreign = self._read(photo)
        return not self.rules.wants(packet, foreign)

    def save(self, photo: str, caption: Caption) -> None:
        """Write into a photo, and keep a copy of it as it was first.

        Raises:
            DataError: ExifTool cannot write into it, or it is a camera raw file; it stays as it is.
        """
        if Path(photo).suffix.lower() in RAW_SUFFIXES:
            raise DataError("is a camera raw file, which is left as it is; use --xmp")
        packet, foreign = self._read(photo)
        if self.rules.wants(packet, foreign):
            self._write(photo, self.rules.apply(packet, caption, foreign))

    def _read(self, photo: str) -> tuple[Packet, bool]:
        embedded = read_embedded(photo)
        sidecars = any(_is_foreign(sidecar_of(photo, by_stem=form)) for form in (False, True))
        packet = embedded.packet or Packet()
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
            said = errors.strip().splitlines() or ["it says nothing"]
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
    """Run a program that a signal to us doesn't stop halfway; its status and its errors."""
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
        raise DataError(f"its sidecar {path} {error}; it is left as it is") from error


def _is_foreign(path: Path) -> bool:
    """Whether a sidecar has a person's caption, or might have."""
    try:
        packet = _read_sidecar(path)
    except (DataError, OSError):
        return True
    return packet is not None and bool(packet.captions) and not packet.has_own_caption
