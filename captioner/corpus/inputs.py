"""A folder, a list of paths, shards or Parquet files -> blocks."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import pyarrow.parquet

from captioner.corpus.blocks import Block
from captioner.corpus.storage import (
    absolute,
    ahead,
    is_local,
    is_web,
    locate,
    open_file,
    persistently,
    reading,
)
from captioner.errors import ConfigError, DataError
from captioner.images import IMAGE_SUFFIXES, find_images

InputKind: TypeAlias = Literal["auto", "images", "list", "shards", "parquet"]
INPUT_KINDS: tuple[str, ...] = get_args(InputKind)

SHARD, TABLE = ".tar", ".parquet"
_SUFFIXES = {"shards": SHARD, "parquet": TABLE}
_FREE = 1_000_000  # indices that are reserved for the images of a shard


def plan(source: str, kind: str = "auto", *, block_size: int = 500) -> Iterator[Block]:
    """Divide a corpus into blocks deterministically.

    Args:
        source: A folder, a file or a pattern with `*`; a path or a URL.
        kind: The type of input: "images", a tree of image files; "list", a text file with one path
            or URL per line; "shards", tar files in WebDataset's layout; "parquet". "auto" detects
            the type of a file by its suffix, and treats a folder with .tar files as shards, else
            one with .parquet files as Parquet, else as images.
        block_size: The maximum number of images in a block of image files, and the minimum in a
            block of row groups. A shard is a block.

    Returns:
        An iterator over the blocks, found on demand.

    Raises:
        DataError: The input cannot be read.
        ConfigError: The file system is unknown, or an option is invalid.
    """
    if kind not in INPUT_KINDS:
        raise ConfigError(f"The kind of input is {kind!r}; expected {', '.join(INPUT_KINDS)}.")
    if block_size < 1:
        raise ConfigError(f"The block size is {block_size}; expected 1 or more.")
    return _numbered(_blocks(_entries(absolute(source), kind), block_size))


def _entries(source: str, kind: str) -> Iterator[str]:
    """Return the absolute paths or URLs of all images, shards and Parquet files, in order."""
    system, path = locate(source)
    with reading(source):
        # fsspec treats any text with links as a folder.
        may_be_folder = not is_web(source) or source.endswith("/")
        if may_be_folder and system.isdir(path):
            return _in_folder(system, source, path, kind)
        exists = system.exists(path)
        matching = [] if exists or "*" not in path else sorted(system.glob(path))
    if matching:
        return iter([_named(system, source, name) for name in matching])
    if not exists:
        or_refused = ", or its server denies access" if is_web(source) else ""
        raise DataError(
            f"{source} does not exist{or_refused}; expected a folder, a list, shards or Parquet."
        )
    suffix = os.path.splitext(path)[1].lower()
    if suffix in IMAGE_SUFFIXES and kind != "list":
        raise ConfigError(
            f"{source} is one image; expected a corpus. For single images use: captioner caption"
        )
    if (kind == "auto" and suffix in (SHARD, TABLE)) or suffix == _SUFFIXES.get(kind):
        return iter([source])
    if kind not in ("auto", "list"):
        raise ConfigError(f"{source} is a file that ends in {suffix or 'nothing'}, not {kind}.")
    return _listed(system, source, path)


def _in_folder(system: Any, source: str, path: str, kind: str) -> Iterator[str]:
    if kind == "list":
        raise ConfigError(f"{source} is a folder; expected a text file with one path per line.")
    if kind == "auto":
        names = [str(name).lower() for name in system.ls(path, detail=False)]
        kinds = [kind for kind, end in _SUFFIXES.items() if any(n.endswith(end) for n in names)]
        kind = kinds[0] if kinds else "images"
    if kind == "images" and is_local(source):
        return map(str, find_images(path))
    ends = tuple(IMAGE_SUFFIXES) if kind == "images" else _SUFFIXES[kind]
    inner = (
        name
        for name in sorted(system.find(path))
        if name.lower().endswith(ends)
        and not any(part.startswith(".") for part in name[len(path) :].split("/"))
    )
    return (_named(system, source, name) for name in inner)


def _named(system: Any, source: str, name: str) -> str:
    return name if is_local(source) else str(system.unstrip_protocol(name))


def _listed(system: Any, source: str, path: str) -> Iterator[str]:
    """Return the entries of a list; relative paths are resolved against the list's folder."""
    folder = os.path.dirname(source) if is_local(source) else source.rpartition("/")[0]
    with reading(source), system.open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                name = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
            except UnicodeDecodeError as error:
                if b"\0" in line or not is_local(source):
                    raise DataError(
                        f"{source}, line {number}: not text; expected one path or URL per line."
                    ) from error
                name = os.fsdecode(line.strip(b"\r\n"))
            if name.strip():
                yield absolute(name, folder)


def _blocks(entries: Iterable[str], block_size: int) -> Iterator[Block]:
    images: list[str] = []
    for blocks in ahead(lambda entry: _of_file(entry, block_size), entries):
        for block in blocks:
            if block.kind == "images":
                images += block.paths
                if len(images) < block_size:
                    continue
            if images:
                yield Block("images", tuple(images), images=len(images))
                images = []
            if block.kind != "images":
                yield block
    if images:
        yield Block("images", tuple(images), images=len(images))


def _of_file(entry: str, block_size: int) -> list[Block]:
    suffix = os.path.splitext(entry)[1].lower()
    if suffix == SHARD:
        return [Block("shard", (entry,))]
    return _of_table(entry, block_size) if suffix == TABLE else [Block("images", (entry,))]


def _of_table(entry: str, block_size: int) -> list[Block]:
    """Group row groups into blocks."""
    try:
        with reading(entry):
            counts = persistently(lambda: _row_counts(entry))
    except DataError:  # the worker reports the error
        return [Block("table", (entry,))]
    blocks: list[Block] = []
    groups: list[int] = []
    for group in range(len(counts)):
        groups.append(group)
        rows = sum(counts[each] for each in groups)
        if rows >= block_size or group == len(counts) - 1:
            blocks.append(Block("table", (entry,), images=rows, groups=tuple(groups)))
            groups = []
    return blocks


def _row_counts(entry: str) -> list[int]:
    with open_file(entry) as file:
        metadata = pyarrow.parquet.ParquetFile(file).metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _numbered(blocks: Iterable[Block]) -> Iterator[Block]:
    first = 0
    for block in blocks:
        yield replace(block, first=first)
        first += _FREE if block.images is None else block.images
