"""The file that `captioner caption --output` writes and resumes.

captions.tsv             the captions, one row or line at a time
captions.tsv.run.json    the model and the options, to check when resuming
"""

import errno
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from captioner.commands.parser import STANDARD_INPUT
from captioner.errors import ConfigError
from captioner.files import check_folder_of, real_path, replacing
from captioner.library.tables import BOM, csv_header, csv_path, unescape_row

_ELSE = "Remove it, or choose another file with --output."
_CSV = "CSV"
# Whoever names a file like this would be surprised to find text in it.
_OTHER_FORMATS = {"xlsx", "xls", "ods", "json", "html", "parquet", "srt", "vtt"}


@dataclass(frozen=True)
class Run:
    """The properties that all captions of a file share.

    Attributes:
        form: "caption alone", "table" (of paths and captions), either of them "with tags", "JSON
            lines" or "CSV".
        folder: The folder that relative paths start from.
        models: The fingerprint of each checkpoint (see `captioner.checkpoint.fingerprint`).
        decoding: All decoding options.
        photo: The only image, for the form "caption alone", whose rows have no path; else None.
    """

    form: str
    folder: str
    models: tuple[str, ...]
    decoding: Mapping[str, Any]
    photo: str | None = None


def format_of(output: Path | None, formats: Collection[str]) -> str | None:
    """Find the format that a file's suffix names.

    Args:
        output: The file, if any.
        formats: The formats that can be written to it.

    Returns:
        The format, such as csv for captions.csv; None if the suffix names none.

    Raises:
        ConfigError: The suffix names a format that cannot be written.
    """
    suffix = "" if output is None else output.suffix.lower().removeprefix(".")
    if suffix in formats:
        return suffix
    if suffix in _OTHER_FORMATS:
        expected = ", ".join(f".{one}" for one in ("txt", "tsv", *formats) if one != "text")
        raise ConfigError(
            f"--output {output}: {suffix} files cannot be written. Expected one of {expected}, or"
            " the format with --format."
        )
    return None


def check_output(output: Path, inputs: Sequence[str], *, resumed: bool = True) -> None:
    """Check the output file before a model is loaded.

    Args:
        output: The file.
        inputs: The images and folders of images to read.
        resumed: Whether a file with captions of an earlier run can be resumed.

    Raises:
        ConfigError: The file is an input, an image, or was not written by this program, it cannot
            be resumed, or its folder does not exist.
        OSError: The file cannot be written.
    """
    from captioner.images import IMAGE_SUFFIXES

    target = real_path(output)
    if {output.suffix.lower(), target.suffix.lower()} & set(IMAGE_SUFFIXES):
        raise ConfigError(
            f"--output {output} would overwrite an image; expected a text file, such as"
            " captions.txt."
        )
    for path in inputs:
        if path != STANDARD_INPUT and not os.path.isdir(path) and _same(target, path):
            raise ConfigError(
                f"--output {output} is one of the images to caption; choose another file."
            )
    if target.is_dir():
        raise ConfigError(
            f"--output {output} is a folder; expected a file, such as {output / 'captions.tsv'}."
        )
    check_folder_of(output)
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(output))
    if not resumed and _has_content(target):
        raise ConfigError(f"{output} already exists, and such a file cannot be resumed. {_ELSE}")
    if _has_content(target) or _companion(output).exists():  # would be overwritten
        _read_run(output)


class CaptionsFile:
    """A captions file, new or resumed. Nothing is written before `with` is entered.

    Args:
        output: The file, checked by `check_output`.
        run: The properties that all captions of the file share.
        inputs: The images and folders of images to read.

    Raises:
        ConfigError: The file was not written by this program, or by a run with another model or
            other options.
    """

    def __init__(self, output: Path, run: Run, inputs: Sequence[str]) -> None:
        self.output = output
        self._run = run
        self._target = real_path(output)
        self._plain = self._target.exists() and not self._target.is_file()  # a pipe or a device
        self._done: set[str] = set()
        self._size = 0  # bytes of whole rows
        self._found = 0  # bytes when it was read
        self._file: FileIO | None = None
        if _has_content(self._target):
            before = _read_run(output)
            self._check_same_form(before)
            names = self._read_rows()
            self._check_same_run(before, [*names, *inputs])
            self._done = {self._key(name) for name in names if name != STANDARD_INPUT}

    def __len__(self) -> int:
        """Return the number of images with captions."""
        return len(self._done)

    def __contains__(self, name: str) -> bool:
        """Return whether the file has a caption of the image with this path."""
        return name != STANDARD_INPUT and self._key(name) in self._done

    def __enter__(self) -> "CaptionsFile":
        """Open the file for writing after the last complete row.

        Raises:
            ConfigError: Another process is writing to the file, or has written since it was read.
            OSError: The file cannot be written.
        """
        if self._plain:
            self._file = FileIO(self._target, "w")
            self._append(self._header())
            return self
        self._file = FileIO(self._target, "a")
        try:
            _lock(self._file, self.output)
            if os.fstat(self._file.fileno()).st_size != self._found:
                raise ConfigError(
                    f"Another process has just written to {self.output}; run the command again to"
                    " resume."
                )
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
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def write(self, name: str, text: str) -> None:
        """Write the rows of an image, completely or not at all.

        Raises:
            OSError: They cannot be written; earlier rows are kept.
        """
        self._append(text)
        if name != STANDARD_INPUT:
            self._done.add(self._key(name))

    def _append(self, text: str) -> None:
        assert self._file is not None
        data = text.encode("utf-8", "surrogateescape")  # keeps undecodable bytes of file names
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
        """Return the header of a CSV file; "" for other forms."""
        return BOM + csv_header() if self._run.form == _CSV else ""

    def _is_header(self, line: bytes) -> bool:
        """Return whether a whole line is the header; spreadsheets change its mark and its end."""
        text = line.decode("utf-8", "replace").removeprefix(BOM)
        whole = self._run.form == _CSV and text.endswith("\n")
        return whole and text.rstrip("\r\n") == csv_header().rstrip("\n")

    def _key(self, name: str) -> str:
        """Return an absolute path as a key for an image; `..` is kept, as it may follow a link."""
        return str(Path(self._run.folder, name))

    def _read_rows(self) -> list[str]:
        """Return the paths of all complete rows; a truncated last row will be overwritten."""
        names = []
        with open(self._target, "rb") as file:
            self._found = os.fstat(file.fileno()).st_size
            first = file.readline()
            self._size = len(first) if self._is_header(first) else file.seek(0)
            for number, line in enumerate(self._records(file), 1):
                if not line.endswith(b"\n"):
                    break
                name = self._name_in(line)
                if name is None:
                    raise ConfigError(
                        f"{self.output}, line {number}: not written by this program. {_ELSE}"
                    )
                names.append(name)
                self._size += len(line)
        return names

    def _records(self, file: Iterable[bytes]) -> Iterator[bytes]:
        """Yield rows: single lines, or several for CSV, whose quoted paths may contain newlines."""
        record = b""
        for line in file:
            record += line
            if self._run.form != _CSV or record.count(b'"') % 2 == 0:
                yield record
                record = b""

    def _name_in(self, line: bytes) -> str | None:
        """Return the path in a row; None if the row doesn't have this form."""
        text = line.decode("utf-8", "surrogateescape").rstrip("\n")
        if self._run.form == _CSV:
            return csv_path(text)
        if self._run.form.startswith("caption alone"):
            return self._run.photo
        if self._run.form.startswith("table"):
            name, tab, _ = text.partition("\t")
            return unescape_row(name) if name and tab else None
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            return None
        path = entry.get("path") if isinstance(entry, dict) and "caption" in entry else None
        return path if isinstance(path, str) else None

    def _check_same_form(self, before: Mapping[str, Any]) -> None:
        if before["form"] != self._run.form:
            raise ConfigError(
                f"{self.output} has the format {before['form']}, not {self._run.form}. {_ELSE}"
            )
        if before["photo"] != self._run.photo or self._run.photo == STANDARD_INPUT:
            raise ConfigError(f"{self.output} has the caption of another image. {_ELSE}")

    def _check_same_run(self, before: Mapping[str, Any], names: Sequence[str]) -> None:
        now: dict[str, Any] = json.loads(json.dumps(asdict(self._run)))
        same = f"{self.output} was written"
        if before["models"] != now["models"]:
            raise ConfigError(
                f"{same} with another model; captions of two models would be mixed. {_ELSE}"
            )
        keys = {**before["decoding"], **now["decoding"]}
        changed = [key for key in keys if before["decoding"].get(key) != now["decoding"].get(key)]
        if changed:
            told = "; ".join(
                f"{key} {before['decoding'].get(key)}, now {now['decoding'].get(key)}"
                for key in changed
            )
            raise ConfigError(
                f"{same} with other options: {told}. Use the same options, or remove the file."
            )
        if before["folder"] != now["folder"] and not all(map(os.path.isabs, names)):
            raise ConfigError(
                f"{same} with paths relative to {before['folder']}. Run the command there, or"
                " choose another file."
            )


def _companion(output: Path) -> Path:
    target = real_path(output)
    return target.with_name(f"{target.name}.run.json")


def _read_run(output: Path) -> dict[str, Any]:
    """Read the properties that all captions of an existing file share.

    Raises:
        ConfigError: The file next to it that records them is missing or damaged.
    """
    path = _companion(output)
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{output} already exists and was not written by `captioner caption` (there is no"
            f" {path.name} next to it), so it is not overwritten. {_ELSE}"
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
    return target == real_path(path)


def _lock(file: FileIO, output: Path) -> None:
    """Lock the file against other processes, if the system supports it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"Another process is writing to {output}; wait for it, or choose another file."
        ) from error
    except OSError:  # a file system without locks
        return
