"""Caption photos and clips in one stream, in their order."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from captioner.caption import Caption
from captioner.errors import ImageError, VideoError
from captioner.images import ImageSource
from captioner.video.clip import Clip
from captioner.video.formats import is_clip

if TYPE_CHECKING:
    from captioner.inference import Captioner


def stream_mixed(
    captioner: "Captioner",
    sources: Iterable[ImageSource],
    *,
    every: float | None = None,
    batch_size: int = 32,
    first_image: int = 0,
    **decoding: Any,
) -> Generator[Caption | Clip | ImageError, None, None]:
    """Caption any number of photos and clips; clips are recognised by their suffix.

    Args:
        captioner: The model.
        sources: The photos and clips, read on demand.
        every: As for `Captioner.caption_video`.
        batch_size: As for `Captioner.stream`.
        first_image: As for `Captioner.stream`.
        **decoding: As for `Captioner.stream`.

    Returns:
        An iterator over the results in the order of the sources: a caption, a timeline, or the
        error of one that cannot be read. Close it if you don't exhaust it.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    captioner.stream((), batch_size=batch_size, **decoding)  # validates the options
    settings = {"batch_size": batch_size, **decoding}
    return _stream(captioner, iter(sources), every, first_image, settings)


def _stream(
    captioner: "Captioner",
    sources: Iterator[ImageSource],
    every: float | None,
    captioned: int,
    settings: dict[str, Any],
) -> Generator[Caption | Clip | ImageError, None, None]:
    clips: list[Any] = []  # the clip that ended the photos before it

    def photos() -> Iterator[ImageSource]:
        for source in sources:
            if is_clip(source):
                clips.append(source)
                return
            yield source

    while True:
        with closing(captioner.stream(photos(), first_image=captioned, **settings)) as results:
            for result in results:
                captioned += isinstance(result, Caption)
                yield result
        if not clips:
            return
        try:
            yield captioner.caption_video(
                clips.pop(), every=every, first_image=captioned, **settings
            )
        except VideoError as error:
            yield error
