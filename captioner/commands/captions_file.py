"""The file that `captioner caption --output` writes, and continues where it stopped.

captions.tsv             what was asked for, a row or a line at a time
captions.tsv.run.json    by which model and with which options, for who continues it
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from captioner.commands.parser import STANDARD_INPUT
from captioner.errors import ConfigError
from captioner.files import replacing
from captioner.library.tables import BOM, csv_header, csv_path

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_ELSE = "Remove it, or name another file with --output."
_CSV = "CSV"


@dataclass(frozen=True)
class Run:
    """What all captions of a file have in common.

    Attributes:
        form: A "caption alone", a "table" of paths and captions, both maybe "with tags", "JSON
            lines" or "CSV".
        folder: Where relative paths start.
        models: What tells one checkpoint from another, for each that decides (see
            `captioner.checkpoint.fingerprint`).
        decoding: All decoding options.
        photo: The only image, for the form "caption alone", which doesn't say it; else None.
    """

    form: str
    folder: str
    models: tuple[str, ...]
    decoding: Mapping[str, Any]
    photo: str | None = None


def escape(name: str) -> str:
    r"""Escape a path for a row: tab, newline and carriage return become `\t`, `\n` and `\r`.

    A backslash becomes two, except on Windows, where no name can have the others.
    """
    return name if os.name == "nt" else "".join(_ESCAPES.get(letter, letter) for letter in name)


def unescape(field: str) -> str:
    """Read what `escape` wrote."""
    if os.name == "nt":
        return field
    plain = {escaped: letter for letter, escaped in _ESCAPES.items()}
    parts, at = [], 0
    while at < len(field):
        length = 2 if field[at] == "\\" else 1
        parts.append(plain.get(field[at : at + length], field[at : at + length]))
        at += length
    return "".join(parts)


def check_output(output: Path, inputs: Sequence[str]) -> None:
    """Refuse an output that cannot be one, before a model is loaded.

    Args:
        output: The file.
        inputs: The images and folders of images that are read.

    Raises:
        ConfigError: It is an input, an image, or somebody else's file.
        OSError: It cannot be written.
    """
    from captioner.images import IMAGE_SUFFIXES

    target = output.resolve()
    if {output.suffix.lower(), target.suffix.lower()} & set(IMAGE_SUFFIXES):
        raise ConfigError(
            f"--output {output} would overwrite an image; expected a text file, such as"
            " captions.txt."
        )
    for path in inputs:
        if path != STANDARD_INPUT and not os.path.isdir(path) and _same(target, path):
            raise ConfigError(
                f"--output {output} is one of the images to caption; expected another file."
            )
    if target.is_dir():
        raise ConfigError(
            f"--output {output} is a folder; expected a file, such as {output / 'captions.tsv'}."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(output))
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(output))
    if _has_content(target) or _companion(output).exists():  # which would be written over
        _read_run(output)


class CaptionsFile:
    """A file of captions, new or continued. Nothing is written before `with` is entered.

    Args:
        output: Where; it passed `check_output`.
        run: What its captions have in common.
        inputs: The images and folders of images that are read.

    Raises:
        ConfigError: The file is another's, or of a run with another model or other options.
    """

    def __init__(self, output: Path, run: Run, inputs: Sequence[str]) -> None:
        self.output = output
        self._run = run
        self._target = output.resolve()
        self._plain = self._target.exists() and not self._target.is_file()  # a pipe or a device
        self._done: set[str] = set()
        self._size = 0  # bytes of whole rows
        self._file: FileIO | None = None
        if _has_content(self._target):
            before = _read_run(output)
            self._check_same_form(before)
            names = self._read_rows()
            self._check_same_run(before, [*names, *inputs])
            self._done = {self._key(name) for name in names if name != STANDARD_INPUT}

    def __len__(self) -> int:
        """How many images it has captions of."""
        return len(self._done)

    def __contains__(self, name: str) -> bool:
        """Whether it has the caption of the image of this path."""
        return name != STANDARD_INPUT and self._key(name) in self._done

    def __enter__(self) -> "CaptionsFile":
        """Begin to write, behind the last whole row.

        Raises:
            ConfigError: Another process writes to it.
            OSError: It cannot be written.
        """
        if self._plain:
            self._file = FileIO(self._target, "w")
            self._append(self._header())
            return self
        self._file = FileIO(self._target, "a")
        try:
            _lock(self._file, self.output)
            if self._size == 0:
                with replacing(_companion(self.output)) as path:
                    path.write_text(
                        json.dumps(asdict(self._run), indent=2) + "\n", encoding="utf-8"
                    )
            self._file.truncate(self._size)
            if self._size == 0:
                self._append(self._header())
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Write no more."""
        if self._file is not None:
            self._file.close()

    def write(self, name: str, text: str) -> None:
        """Write all that is said of an image, whole or not at all.

        Raises:
            OSError: It cannot be written; what was written before stays.
        """
        self._append(text)
        if name != STANDARD_INPUT:
            self._done.add(self._key(name))

    def _append(self, text: str) -> None:
        assert self._file is not None
        data = text.encode("utf-8", "surrogateescape")  # odd bytes of a file name pass as they are
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:]) or 0
        except OSError as error:
            if not self._plain:
                self._file.truncate(self._size)
            raise OSError(error.errno, error.strerror, str(self.output)) from error
        self._size += len(data)

    def _header(self) -> str:
        """What stands above the rows."""
        return BOM + csv_header() if self._run.form == _CSV else ""

    def _key(self, name: str) -> str:
        """Return a key for an image, equal for all spellings of its path; `..` may cross a link."""
        return str(Path(self._run.folder, name))

    def _read_rows(self) -> list[str]:
        """Return the paths of all complete rows; a truncated last row will be overwritten."""
        names = []
        with open(self._target, "rb") as file:
            header = self._header().encode()
            self._size = len(header) if file.read(len(header)) == header else file.seek(0)
            for number, line in enumerate(self._records(file), 1):
                if not line.endswith(b"\n"):
                    break
                name = self._name_in(line)
                if name is None:
                    raise ConfigError(
                        f"{self.output}, line {number}: no caption of this program's. {_ELSE}"
                    )
                names.append(name)
                self._size += len(line)
        return names

    def _records(self, file: Iterable[bytes]) -> Iterator[bytes]:
        """Lines, or in CSV, where a quoted path may have new lines, as many as belong together."""
        record = b""
        for line in file:
            record += line
            if self._run.form != _CSV or record.count(b'"') % 2 == 0:
                yield record
                record = b""

    def _name_in(self, line: bytes) -> str | None:
        """The path in a row; None if it is none of this form."""
        text = line.decode("utf-8", "surrogateescape").rstrip("\n")
        if self._run.form == _CSV:
            return csv_path(text)
        if self._run.form.startswith("caption alone"):
            return self._run.photo
        if self._run.form.startswith("table"):
            name, tab, _ = text.partition("\t")
            return unescape(name) if name and tab else None
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            return None
        path = entry.get("path") if isinstance(entry, dict) and "caption" in entry else None
        return path if isinstance(path, str) else None

    def _check_same_form(self, before: Mapping[str, Any]) -> None:
        if before["form"] != self._run.form:
            raise ConfigError(
                f"{self.output} is written as {before['form']}, not {self._run.form}. {_ELSE}"
            )
        if before["photo"] != self._run.photo or self._run.photo == STANDARD_INPUT:
            raise ConfigError(f"{self.output} has the caption of another image. {_ELSE}")

    def _check_same_run(self, before: Mapping[str, Any], names: Sequence[str]) -> None:
        now: dict[str, Any] = json.loads(json.dumps(asdict(self._run)))
        same = f"{self.output} has captions of another run"
        if before["models"] != now["models"]:
            raise ConfigError(
                f"{same}, by another model; captions of two models would mix. {_ELSE}"
            )
        keys = {**before["decoding"], **now["decoding"]}
        changed = [key for key in keys if before["decoding"].get(key) != now["decoding"].get(key)]
        if changed:
            told = "; ".join(
                f"{key} {before['decoding'].get(key)}, now {now['decoding'].get(key)}"
                for key in changed
            )
            raise ConfigError(
                f"{same}, with other options: {told}. Take the same options, or remove the file."
            )
        if before["folder"] != now["folder"] and not all(map(os.path.isabs, names)):
            raise ConfigError(
                f"{same}, whose paths start at {before['folder']}. Start it there again, or name"
                " another file."
            )


def _companion(output: Path) -> Path:
    target = output.resolve()
    return target.with_name(f"{target.name}.run.json")


def _read_run(output: Path) -> dict[str, Any]:
    """What the captions of an existing file have in common.

    Raises:
        ConfigError: Nothing says so: the file isn't one of captions, or came without what lay
            beside it.
    """
    path = _companion(output)
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{output} is there already, and is not known to be of `captioner caption` (there is no"
            f" {path.name} beside it), so it is left as it is. {_ELSE}"
        ) from None
    except (ValueError, RecursionError):
        run = None
    keys = Run.__dataclass_fields__.keys()
    if not isinstance(run, dict) or run.keys() != keys or not isinstance(run["decoding"], dict):
        raise ConfigError(f"{path} doesn't say how {output} was written. {_ELSE}")
    return run


def _has_content(target: Path) -> bool:
    return target.is_file() and target.stat().st_size > 0


def _same(target: Path, path: str) -> bool:
    if target.exists() and os.path.exists(path):
        return target.samefile(path)
    return target == Path(path).resolve()


def _lock(file: FileIO, output: Path) -> None:
    """Keep other processes from writing to it meanwhile, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"Another process is writing to {output}; wait for it, or name another file."
        ) from error
    except OSError:  # a file system without locks
        return
