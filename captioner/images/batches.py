"""Read any number of images in constant memory, loading the next batch in the background."""

import io
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from numbers import Integral
from typing import TypeVar

import numpy as np
from PIL import Image

from captioner.errors import ConfigError
from captioner.images.sources import ImageSource

Read = TypeVar("Read")

# the first batch is small, for low latency; each next batch is twice as large
_FIRST_BATCH = 4
_READERS = min(4, os.cpu_count() or 1)
# Some of these could be iterated, but not over images.
_SINGLE = (str, os.PathLike, bytes, bytearray, memoryview, io.IOBase, Image.Image, np.ndarray)


def read_in_batches(
    sources: Iterator[ImageSource], batch_size: int, read: Callable[[int, ImageSource], Read]
) -> Generator[list[Read], None, None]:
    """Read images in batches, with one batch of read-ahead.

    Args:
        sources: The sources, consumed lazily. An error of theirs is raised after the images before
            it.
        batch_size: The largest batch.
        read: Reads an image, given its number (counted from 1) and source. Called concurrently by
            several threads.

    Returns:
        An iterator over lists of results, one per batch, in the order of the sources. Close it if
        it is not exhausted.
    """
    errors: list[Exception] = []
    yield from _read(enumerate(_until_error(sources, errors), start=1), batch_size, read)
    if errors:
        raise errors[0]


def _until_error(sources: Iterator[ImageSource], errors: list[Exception]) -> Iterator[ImageSource]:
    """Yield sources until they are exhausted or raise an error, which is added to `errors`."""
    try:
        yield from sources
    except Exception as error:
        errors.append(error)


def _read(
    numbered: Iterator[tuple[int, ImageSource]],
    batch_size: int,
    read: Callable[[int, ImageSource], Read],
) -> Generator[list[Read], None, None]:
    size = min(_FIRST_BATCH, batch_size)
    first = list(islice(numbered, size))
    if len(first) == 1 < size:  # a single image, for which threads don't pay off
        yield [read(*first[0])]
        return
    from concurrent.futures import ThreadPoolExecutor

    readers = ThreadPoolExecutor(_READERS, thread_name_prefix="captioner-reader")
    try:
        waiting = deque(readers.submit(read, *item) for item in first)
        while waiting:
            batch = [waiting.popleft() for _ in range(len(waiting))]
            size = min(2 * size, batch_size)
            waiting.extend(readers.submit(read, *item) for item in islice(numbered, size))
            yield [future.result() for future in batch]
    finally:
        readers.shutdown(wait=False, cancel_futures=True)


def as_iterable(sources: Iterable[ImageSource] | ImageSource) -> Iterable[ImageSource]:
    """Wrap a single source in a list.

    What holds no sources, such as None or an open file, counts as one: its error says what it is.
    """
    holds = hasattr(sources, "__iter__") or hasattr(sources, "__getitem__")
    if holds and not isinstance(sources, _SINGLE):
        return sources
    return [sources]  # type: ignore[list-item]


def number_name(number: int, source: object) -> str | None:
    """Return the name of the `number`-th image for errors; None to use its path."""
    if isinstance(source, (str, os.PathLike)) or getattr(source, "filename", None):
        return None
    kind = {bytes: "bytes", np.ndarray: "array"}.get(type(source), type(source).__name__)
    return f"image {number} ({kind})"


def check_whole(name: str, value: object, *, least: int) -> None:
    """Check a size of batches or an index of images.

    Raises:
        ConfigError: It is no whole number from `least` on.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise ConfigError(f"{name} is {value!r}; expected a whole number, {least} or more.")
