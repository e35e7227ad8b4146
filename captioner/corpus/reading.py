"""A block -> its images."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

from captioner.corpus.blocks import Block
from captioner.corpus.storage import ahead, is_local, open_file, persistently, read_bytes, said
from captioner.errors import ConfigError, ImageError
from captioner.images import IMAGE_SUFFIXES

_IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content")
_KEY_COLUMNS = ("key", "__key__", "id", "image_id", "path", "file_name", "filename", "url")
_ROWS = 64  # read from a table at once
_RECORD = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class CorpusImage:
    """One image of a corpus.

    Attributes:
        path: Its file, or the shard or table that contains it.
        key: Its name in the shard or table; None for a file of its own.
        source: A path or bytes; or the error of an image that cannot be read.
    """

    path: str
    key: str | None
    source: str | bytes | ImageError

    @property
    def name(self) -> str:
        """Its name in error messages."""
        return self.path if self.key is None else f"{self.path}, {self.key}"


class DamageError(Exception):
    """The rest of a block's file cannot be read; everything before it is intact."""


def read_block(block: Block, image_column: str | None = None) -> Iterator[CorpusImage]:
    """Read the images of a block; prefetch a few over a network.

    Args:
        block: The block.
        image_column: The column of a table with the images; by default one with a common name.

    Raises:
        DamageError: The file is truncated or damaged after the images that were read.
        ConfigError: A table has no such column.
        OSError: The file cannot be opened, or reading it fails.
    """
    if block.kind == "images":
        return ahead(_file, block.paths)
    (path,) = block.paths
    return _shard(path) if block.kind == "shard" else _table(path, block.groups, image_column)


def _file(path: str) -> CorpusImage:
    if is_local(path):
        return CorpusImage(path, None, path)
    try:
        return CorpusImage(path, None, read_bytes(path))
    except FileNotFoundError:
        reason = "does not exist"
    except PermissionError:
        reason = "cannot be read (permission denied)"
    except Exception as error:  # file system clients share no other base class
        reason = f"cannot be read ({said(error)})"
    return CorpusImage(path, None, ImageError(path, reason))


def _open(path: str) -> Any:
    return persistently(lambda: open_file(path))


def _shard(path: str) -> Iterator[CorpusImage]:
    """Return the images of a tar file; skip a sample's other files, such as its text."""
    with _open(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.isfile() and _is_image(member.name):
                        content = tar.extractfile(member)
                        assert content is not None
                        yield CorpusImage(path, os.path.splitext(member.name)[0], content.read())
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
                # At a header that it cannot read it ends silently, as at the end marker.
                file.seek(tar.offset)
                if file.read(_RECORD) != bytes(_RECORD):
                    raise DamageError(f"it is truncated or damaged at byte {tar.offset:,}")
        except tarfile.TarError as error:
            raise DamageError(f"it is truncated or damaged ({said(error)})") from error


def _is_image(name: str) -> bool:
    """Return whether a file in a shard is an image; `._photo.jpg` is metadata that macOS adds."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in IMAGE_SUFFIXES and not os.path.basename(name).startswith("._")


def _table(path: str, groups: tuple[int, ...], image_column: str | None) -> Iterator[CorpusImage]:
    with _open(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            image, key = _columns(path, table.schema_arrow, image_column)
            number = sum(
                table.metadata.row_group(group).num_rows for group in range(min(groups, default=0))
            )
            for batch in table.iter_batches(
                _ROWS,
                row_groups=list(groups) or None,  # all of a table that the plan could not read
                columns=[image, *([key] if key else [])],
            ):
                images = batch.column(image).to_pylist()
                keys = batch.column(key).to_pylist() if key else [None] * len(images)
                for value, name in zip(images, keys, strict=True):
                    yield _cell(path, str(number if name is None else name), value)
                    number += 1
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and not is_local(path):
                raise
            raise DamageError(f"it is truncated or damaged ({said(error)})") from error


def _columns(path: str, schema: Any, image_column: str | None) -> tuple[str, str | None]:
    """Return the columns of the images and of their keys."""
    names: list[str] = schema.names
    holding = [name for name in names if _holds_bytes(schema.field(name).type)]
    found = [name for name in _IMAGE_COLUMNS if name in holding]
    if not found and len(holding) == 1:
        found = holding
    image = image_column or (found[0] if found else "")
    if image not in holding:
        raise ConfigError(
            f"{path} has no column {image or 'of images'} with the bytes of image files; set it"
            f" with --image-column. The columns are {', '.join(names)}."
        )
    keys = [name for name in _KEY_COLUMNS if name in names and name not in holding]
    return image, keys[0] if keys else None


def _holds_bytes(kind: Any) -> bool:
    """Return whether a type holds bytes, alone or with a path as in Hugging Face datasets."""
    types = pyarrow.types
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return bool(index >= 0 and _holds_bytes(kind.field(index).type))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _cell(path: str, key: str, value: Any) -> CorpusImage:
    content = value.get("bytes") if isinstance(value, dict) else value
    image = CorpusImage(path, key, content if content is not None else b"")
    if content is not None:
        return image
    return CorpusImage(path, key, ImageError(image.name, "has no bytes"))
