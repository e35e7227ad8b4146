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
_CHUNK = 2**20  # bytes
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, xz, zstd


@dataclass(frozen=True)
class CorpusImage:
    """One image of a corpus.

    Attributes:
        path: Its file, or the shard or table that contains it.
        key: Its name in the shard or table; None for a file of its own, or a row whose key is null.
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
        _check_plain(file)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                images: dict[str, tarfile.TarInfo] = {}  # that hard links may name
                for member in tar:
                    if _is_image(member.name) and not member.isdir():
                        if member.isfile():
                            images[member.name] = member
                        yield _member(path, tar, member, images)
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
                # At a header that it cannot read it ends silently, as at the end marker.
                file.seek(tar.offset)
                if file.read(_RECORD) != bytes(_RECORD):
                    raise DamageError(f"it is truncated or damaged at byte {tar.offset:,}")
                while rest := file.read(_CHUNK):
                    if any(rest):
                        raise DamageError(
                            f"it has more data after its end at byte {tar.offset:,}, as joined"
                            " archives have"
                        )
        except tarfile.TarError as error:
            raise DamageError(f"it is truncated or damaged ({said(error)})") from error


def _check_plain(file: Any) -> None:
    """Raise an `OSError` for a compressed archive, which can be read once it is decompressed."""
    start = file.read(max(map(len, _COMPRESSED)))
    file.seek(0)
    if start.startswith(_COMPRESSED):
        raise OSError("it is compressed; decompress it first, as shards are plain tar files")


def _member(
    path: str, tar: tarfile.TarFile, member: tarfile.TarInfo, images: dict[str, tarfile.TarInfo]
) -> CorpusImage:
    """Read an image of a tar file; the second name of a file in it is a link to the first."""
    key = os.path.splitext(member.name)[0]
    found = images.get(member.linkname) if member.islnk() else member
    if found is None or not found.isfile():
        what = f"a link to {member.linkname}" if member.islnk() or member.issym() else "not a file"
        return CorpusImage(path, key, ImageError(f"{path}, {key}", f"is {what}"))
    content = tar.extractfile(found)
    assert content is not None
    return CorpusImage(path, key, content.read())


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
                keys = _keys(batch.column(key)) if key else range(number, number + len(images))
                for value, name in zip(images, keys, strict=True):
                    yield _cell(path, None if name is None else str(name), value)
                number += len(images)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and not is_local(path):
                raise
            raise DamageError(f"it is truncated or damaged ({said(error)})") from error


def _keys(column: Any) -> list[Any]:
    """Return the keys of rows; bytes that are not UTF-8 are escaped, as in names of files."""
    types = pyarrow.types
    if not (types.is_string(column.type) or types.is_large_string(column.type)):
        return list(column.to_pylist())
    texts = column.cast(pyarrow.large_binary()).to_pylist()
    return [None if text is None else text.decode("utf-8", "surrogateescape") for text in texts]


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
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _cell(path: str, key: str | None, value: Any) -> CorpusImage:
    content = value.get("bytes") if isinstance(value, dict) else value
    image = CorpusImage(path, key, content if content is not None else b"")
    if content is not None:
        return image
    return CorpusImage(path, key, ImageError(image.name, "has no bytes"))
