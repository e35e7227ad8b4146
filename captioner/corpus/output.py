"""The output folder: its plan, its parts, the manifest of finished blocks, the summary.

    run.json                         the corpus, the model and the options
    plan.jsonl                       the blocks, one per line
    captions/part-00000000.parquet   the rows of a block, in order
    manifest.json                    the finished blocks
    summary.json                     the result of the run

An existing part means a finished block; the manifest avoids reading all parts at the next start.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

from captioner.corpus.blocks import Block, Finished
from captioner.corpus.storage import join, locate, reading, writing
from captioner.errors import ConfigError, DataError

RUN, PLAN, MANIFEST, SUMMARY, PARTS = (
    "run.json",
    "plan.jsonl",
    "manifest.json",
    "summary.json",
    "captions",
)
SCHEMA = pyarrow.schema(
    [
        ("path", pyarrow.string()),
        ("key", pyarrow.string()),
        ("caption", pyarrow.string()),
        ("log_prob", pyarrow.float64()),
        ("confidence", pyarrow.float64()),
        ("error", pyarrow.string()),
    ]
)
"""The columns of every part; `key` is null for an image in a file of its own, or without a key."""

_FINISHED = b"captioner.finished"  # in a part's metadata
_PART = re.compile(r"part-(\d{8,})\.parquet")
_SAVE_EVERY = 5.0  # seconds, or twenty times the time of a save
_ELSE = "Choose another folder with --output."


@dataclass(frozen=True)
class Run:
    """The settings that all captions of an output folder share.

    Attributes:
        input: The corpus, a path or URL.
        kind: Its type, as the user gave it.
        block_size: As for `captioner.corpus.inputs.plan`.
        image_column: The column of tables with the images, if given.
        models: The identity of each model of the ensemble.
        decoding: All decoding options.
    """

    input: str
    kind: str
    block_size: int
    image_column: str | None
    models: Sequence[str]
    decoding: Mapping[str, Any]


def part_name(number: int) -> str:
    """Return the file name of a block's part."""
    return f"part-{number:08d}.parquet"


def write_part(folder: str, number: int, rows: Sequence[Sequence[Any]], found: Finished) -> None:
    """Write the rows of a block atomically.

    Args:
        folder: The output folder, a path or URL.
        number: The block's number.
        rows: The values of `SCHEMA`, for each image.
        found: The result of the block, stored in the part's metadata.

    Raises:
        OSError: The part cannot be written.
    """
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in SCHEMA]
    table = pyarrow.table(columns, schema=SCHEMA)
    table = table.replace_schema_metadata({_FINISHED: json.dumps(asdict(found))})
    with writing(join(join(folder, PARTS), part_name(number))) as path:
        pyarrow.parquet.write_table(table, path)


class OutputFolder:
    """A new output folder, or one to resume. Nothing is written before `start`.

    Args:
        folder: A path or URL.
        run: The settings that its captions share.

    Raises:
        ConfigError: The folder contains other files, or captions of another run.
        DataError: The folder cannot be read.
    """

    def __init__(self, folder: str, run: Run) -> None:
        self.folder = folder
        self.finished: dict[int, Finished] = {}
        self._run = run
        self._system, self._path = locate(folder)
        self._saved, self._saving = time.monotonic(), 0.0
        with reading(folder):
            exists = self._system.exists(self._path)
            if exists and not self._system.isdir(self._path):
                raise ConfigError(f"--output {folder} is a file; expected a folder.")
            names = self._names("") if exists else set()
        if RUN in names:
            self._check_same_run()
            self._find_finished()
        elif names:
            raise ConfigError(
                f"{folder} is not empty and not an output folder (it has no {RUN}), so it is left"
                f" unchanged. {_ELSE}"
            )
        self.has_plan = PLAN in names

    def start(self, blocks: Iterator[Block]) -> None:
        """Create the folder and write its plan if there is none yet.

        Args:
            blocks: All blocks; consumed only if there is no plan yet.

        Raises:
            DataError: There is nothing to caption.
            OSError: The folder cannot be written.
        """
        if self.has_plan:
            return
        first = next(blocks, None)
        if first is None:
            raise DataError(f"{self._run.input} has no images.")
        self._system.makedirs(self._path, exist_ok=True)
        self._write(RUN, asdict(self._run))  # first: without it, the folder isn't known as ours
        self._system.makedirs(join(self._path, PARTS), exist_ok=True)
        with (
            writing(join(self.folder, PLAN)) as path,
            open(path, "w", encoding="utf-8") as file,
        ):
            file.write(first.to_line())
            file.writelines(block.to_line() for block in blocks)
        self.has_plan = True

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Read all blocks with their numbers, including the finished ones."""
        with (
            reading(join(self.folder, PLAN)),
            self._system.open(join(self._path, PLAN), "r", encoding="utf-8") as file,
        ):
            for number, line in enumerate(file):
                yield number, Block.from_line(line)

    def finish(self, number: int, found: Finished) -> None:
        """Record a block whose part is written; save the manifest every few seconds.

        Raises:
            DataError: The part is not in this folder.
        """
        parts = join(self._path, PARTS)
        self._system.invalidate_cache(parts)  # listed before another process wrote the part
        if not self._system.exists(join(parts, part_name(number))):
            raise DataError(
                f"A worker has written {part_name(number)}, but it is not in {self.folder}. All"
                " machines of a cluster must access the same folder: a shared folder or a URL."
            )
        self.finished[number] = found
        if time.monotonic() - self._saved > max(_SAVE_EVERY, 20 * self._saving):
            self.save()

    def save(self) -> None:
        """Write the manifest.

        Raises:
            OSError: It cannot be written; the previous one is kept.
        """
        began = time.monotonic()
        entries = {str(number): asdict(each) for number, each in sorted(self.finished.items())}
        self._write(MANIFEST, {"finished": entries})
        self._saved = time.monotonic()
        self._saving = self._saved - began

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the final summary of `captioner corpus`."""
        self._write(SUMMARY, summary)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with writing(join(self.folder, name)) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _read(self, name: str) -> Any:
        """Return the content of a JSON file; None if it is missing or not JSON."""
        try:
            return json.loads(self._system.cat_file(join(self._path, name)))
        except (FileNotFoundError, ValueError):
            return None

    def _names(self, folder: str) -> set[str]:
        inner = join(self._path, folder) if folder else self._path
        if not self._system.isdir(inner):
            return set()
        listed = self._system.ls(inner, detail=False, refresh=True)
        return {name for path in listed if (name := str(path).rstrip("/").rpartition("/")[2])}

    def _check_same_run(self) -> None:
        before, now = self._read(RUN), json.loads(json.dumps(asdict(self._run)))
        if not isinstance(before, dict) or before.keys() != now.keys():
            raise ConfigError(
                f"{join(self.folder, RUN)} doesn't say how the folder was made. {_ELSE}"
            )
        if before["models"] != now["models"]:
            raise ConfigError(f"{self.folder} has captions by another model. {_ELSE}")
        for part in ({**before, "decoding": None}, before["decoding"]):
            new = now["decoding"] if part is before["decoding"] else {**now, "decoding": None}
            changed = [key for key in new if part.get(key) != new[key]]
            if changed:
                told = "; ".join(f"{key} {part.get(key)}, now {new[key]}" for key in changed)
                raise ConfigError(f"{self.folder} has captions of another run: {told}. {_ELSE}")

    def _find_finished(self) -> None:
        """Find the finished blocks from the manifest, and from the parts that it doesn't list."""
        with reading(self.folder):
            manifest = self._read(MANIFEST)
            entries = manifest.get("finished", {}) if isinstance(manifest, dict) else {}
            for name in self._names(PARTS):
                match = _PART.fullmatch(name)
                if match is None:
                    continue
                entry = entries.get(str(int(match[1]))) or self._read_part(name)
                if entry is not None:
                    self.finished[int(match[1])] = Finished(**entry)

    def _read_part(self, name: str) -> dict[str, Any] | None:
        with self._system.open(join(join(self._path, PARTS), name), "rb") as file:
            try:
                metadata = pyarrow.parquet.read_metadata(file).metadata or {}
                entry: dict[str, Any] = json.loads(metadata[_FINISHED])
            except (pyarrow.ArrowException, KeyError, ValueError):  # not ours: rewritten
                return None
            return entry
