"""Images -> captions: the one way from an image to words.

open_image -> preprocessing -> backend.encode -> search(stepper) -> vocabulary -> Caption
"""

import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.backends import Backend
from captioner.checkpoint import Checkpoint, read_checkpoint
from captioner.decoding import Constraints, DecodingOptions, Hypothesis, Stepper
from captioner.decoding.inclusion import of_each_image
from captioner.decoding.search import search
from captioner.errors import ConfigError, ImageError, MissingExtraError
from captioner.images import ImageSource, open_image
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import Vocabulary

BackendName = Literal["auto", "onnx", "torch"]
Folder: TypeAlias = str | os.PathLike[str]
Pixels: TypeAlias = NDArray[np.float32]  # (3, S, S)
Includes: TypeAlias = list[tuple[str, ...]] | None

_FIRST_BATCH = 4  # the first batch is small, so that the first caption comes soon; each next one is twice as large
_READERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Caption:
    """What was written about an image; `str(caption)` is its text.

    Attributes:
        text: The sentence.
        words: Its words, as the model wrote them: in lower case, contractions split.
        log_prob: The natural logarithm of its probability.
        word_log_probs: The log-probability of each word given those before it, (T,).
        attention: Where the model looked to find each word, (T, h, w): the grid lies over the image as the encoder saw
            it, `preprocessing.fit(image)`. None for models without attention.
        alternatives: If several captions were asked for, all of them, this one included, the best first; else empty.
    """

    text: str
    words: tuple[str, ...]
    log_prob: float
    word_log_probs: tuple[float, ...]
    attention: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    alternatives: tuple["Caption", ...] = ()

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Give what `captioner caption --json` prints, but for the path."""
        alternatives = [{"caption": other.text, "log_prob": other.log_prob} for other in self.alternatives]
        return {"caption": self.text, "log_prob": self.log_prob, "alternatives": alternatives}


class Captioner:
    """Turns images into captions.

    Most use `Captioner.from_pretrained`; training makes one on the model it trains.

    One that was loaded can be copied and pickled, by the names of its folders: pools of processes, Ray and Spark take
    it as it is. One of a model in training cannot be pickled.

    Args:
        backend: What runs the network.
        vocabulary: The model's words.
        preprocessing: How images become its input.
        decoding: How captions are searched for, where a call doesn't say otherwise.
    """

    def __init__(
        self, backend: Backend, vocabulary: Vocabulary, preprocessing: Preprocessing, decoding: DecodingOptions
    ) -> None:
        self.backend = backend
        self.vocabulary = vocabulary
        self.preprocessing = preprocessing
        self.decoding = decoding

    @classmethod
    def from_pretrained(
        cls,
        folder: Folder | Sequence[Folder] | None = None,
        *,
        backend: BackendName = "auto",
        device: str | None = None,
    ) -> "Captioner":
        """Load a checkpoint folder, or several that decide together.

        Args:
            folder: The folder; the model that is bundled with the package if None. Of several, a word's probability is
                the mean of what they give it, and the first one's decoding defaults hold; they need the same words and
                preprocessing, as models that differ in their seed have.
            backend: "onnx" needs no torch and runs on the CPU; "torch" runs on any device; "auto" takes "onnx" if the
                checkpoint has it and no other device than the CPU is asked for, else "torch".
            device: "cpu", "cuda", "cuda:1", ...; None is the CPU.

        Raises:
            CheckpointError: The folder is no checkpoint, or a damaged one.
            ConfigError: There is no such backend or device, or the models don't go together.
            MissingExtraError: The torch backend is needed, and torch is not installed.
        """
        if backend not in ("auto", "onnx", "torch"):
            raise ConfigError(f"backend is {backend!r}; expected auto, onnx or torch.")
        folders = [folder] if folder is None or isinstance(folder, (str, os.PathLike)) else folder
        checkpoints = [read_checkpoint(each) for each in folders]
        if not checkpoints:
            raise ConfigError("No checkpoint folder is given; expected one or more.")
        first = checkpoints[0]
        for other in checkpoints[1:]:
            for what in ("vocabulary", "preprocessing"):
                if getattr(first, what) != getattr(other, what):
                    raise ConfigError(
                        f"{first.folder} and {other.folder} differ in their {what}; models that decide together need "
                        "the same."
                    )
        backends = [_load_backend(checkpoint, backend, device) for checkpoint in checkpoints]
        together = backends[0]
        if len(backends) > 1:
            from captioner.backends.ensemble import Ensemble

            together = Ensemble(backends)
        return cls(together, first.vocabulary, first.preprocessing, first.decoding)

    @overload
    def caption(
        self,
        images: Iterable[ImageSource] | ImageSource,
        *,
        on_error: Literal["raise"] = "raise",
        batch_size: int = 32,
        **decoding: Any,
    ) -> list[Caption]: ...

    @overload
    def caption(
        self,
        images: Iterable[ImageSource] | ImageSource,
        *,
        on_error: Literal["skip"],
        batch_size: int = 32,
        **decoding: Any,
    ) -> list[Caption | None]: ...

    def caption(
        self,
        images: Iterable[ImageSource] | ImageSource,
        *,
        on_error: Literal["raise", "skip"] = "raise",
        batch_size: int = 32,
        **decoding: Any,
    ) -> list[Caption] | list[Caption | None]:
        """Caption images.

        Args:
            images: Paths, bytes, PIL images and arrays in any mix (see `captioner.images.open_image`). A single image
                is taken as a list of one.
            on_error: What an image that cannot be read does: "raise" its error, or "skip": its caption is None.
            batch_size: The most images that are encoded and decoded at once. It doesn't change the captions.
            **decoding: Options of `DecodingOptions` that differ from the model's defaults, such as `beam_size=3`,
                `alternatives=3`, `include=["cat"]` or `sample=True, seed=1`. `include` may also be a list of lists,
                one for each image of a list of images.

        Returns:
            A caption for each image, in their order; always a list.

        Raises:
            ImageError: An image cannot be read.
            ConfigError: An option is unknown or out of range, or the model lacks a word to include.
        """
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error is {on_error!r}; expected raise or skip.")
        captions: list[Caption | None] = []
        with closing(self.stream(images, batch_size=batch_size, **decoding)) as results:
            for result in results:
                if isinstance(result, ImageError) and on_error == "raise":
                    raise result
                captions.append(None if isinstance(result, ImageError) else result)
        return captions

    def stream(
        self,
        images: Iterable[ImageSource] | ImageSource,
        *,
        batch_size: int = 32,
        first_image: int = 0,
        **decoding: Any,
    ) -> Generator[Caption | ImageError, None, None]:
        """Caption any number of images in constant memory.

        While a batch is captioned, the images of the next one are read in the background, and no more than those. The
        first batches are smaller, so that the first captions come soon.

        Args:
            images: As for `caption`; read as it is needed.
            batch_size: As for `caption`.
            first_image: The index of their first one among all that are sampled with the same seed.
            **decoding: As for `caption`.

        Returns:
            An iterator over a caption for each image in their order, or the error of one that cannot be read.

        Raises:
            ConfigError: An option is unknown or out of range.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size!r}; expected 1 or more.")
        sources = [images] if isinstance(images, (str, os.PathLike, bytes, Image.Image, np.ndarray)) else images
        options, include = self._options(decoding, len(sources) if isinstance(sources, Sized) else None)
        return self._stream(iter(sources), batch_size, options, include, first_image)

    def decode(self, stepper: Stepper, *, first_image: int = 0, **decoding: Any) -> list[Caption]:
        """Write captions for images that are encoded already.

        Args:
            stepper: The encoded images, as a backend's `encode` gives them.
            first_image: The index of their first one among all that are sampled with the same seed.
            **decoding: As for `caption`.

        Returns:
            A caption for each image, in their order.

        Raises:
            ConfigError: An option is unknown or out of range.
        """
        return self._decode(stepper, *self._options(decoding, stepper.batch_size), first_image)

    def _options(self, changes: dict[str, Any], images: int | None) -> tuple[DecodingOptions, Includes]:
        """The options, and what the caption of each image includes, if `include` is a list of lists."""
        include = of_each_image(changes.get("include"), images)
        if include is not None:
            changes = {**changes, "include": ()}
        options = DecodingOptions.from_dict(self.decoding.to_dict() | changes) if changes else self.decoding
        if include is not None:
            include = [replace(options, include=each).include for each in include]
        Constraints.from_options(options, self.vocabulary, include)  # says now what cannot be included
        return options, include

    def _stream(
        self,
        sources: Iterator[ImageSource],
        batch_size: int,
        options: DecodingOptions,
        include: Includes,
        first_image: int,
    ) -> Generator[Caption | ImageError, None, None]:
        numbered = enumerate(sources, start=1)
        size = min(_FIRST_BATCH, batch_size)
        first = list(islice(numbered, size))
        if len(first) == 1 < size:  # a single image, for which starting threads takes longer than they would save
            yield from self._caption_batch([self._read(*first[0])], options, include, first_image)
            return
        from concurrent.futures import ThreadPoolExecutor

        seen = 0  # images
        # Images without those that cannot be read, so that sampling numbers them the same in any batches.
        captioned = first_image
        readers = ThreadPoolExecutor(_READERS, thread_name_prefix="captioner-reader")
        try:
            waiting = deque(readers.submit(self._read, *item) for item in first)
            while waiting:
                batch = [waiting.popleft() for _ in range(len(waiting))]
                size = min(2 * size, batch_size)
                waiting.extend(readers.submit(self._read, *item) for item in islice(numbered, size))
                included = None if include is None else include[seen : seen + len(batch)]
                results = self._caption_batch([future.result() for future in batch], options, included, captioned)
                seen += len(batch)
                captioned += sum(isinstance(result, Caption) for result in results)
                yield from results
        finally:
            readers.shutdown(wait=False, cancel_futures=True)

    def _read(self, number: int, source: ImageSource) -> Pixels | ImageError:
        """Read and preprocess one image; its error is a result like any other."""
        try:
            return self.preprocessing(open_image(source, name=_name(number, source), min_size=self.preprocessing.size))
        except ImageError as error:
            return error

    def _caption_batch(
        self, read: list[Pixels | ImageError], options: DecodingOptions, include: Includes, first_image: int
    ) -> list[Caption | ImageError]:
        pixels = [result for result in read if not isinstance(result, ImageError)]
        if include is not None:
            include = [each for each, result in zip(include, read, strict=True) if not isinstance(result, ImageError)]
        captions: Iterator[Caption] = iter(())
        if pixels:
            captions = iter(self._decode(self.backend.encode(np.stack(pixels)), options, include, first_image))
        return [result if isinstance(result, ImageError) else next(captions) for result in read]

    def _decode(self, stepper: Stepper, options: DecodingOptions, include: Includes, first_image: int) -> list[Caption]:
        constraints = Constraints.from_options(options, self.vocabulary, include)
        found = search(stepper, options, constraints, first_image=first_image)
        if constraints.inclusion is not None and not all(hypotheses[0].finished for hypotheses in found):
            raise ConfigError("No caption includes all that it must; raise max_length, or include less.")
        return [self._to_caption(hypotheses, options.alternatives) for hypotheses in found]

    def _to_caption(self, hypotheses: list[Hypothesis], wanted: int) -> Caption:
        captions = tuple(
            Caption(
                text=self.vocabulary.text(hypothesis.words),
                words=tuple(self.vocabulary.decode(hypothesis.words)),
                log_prob=hypothesis.log_prob,
                word_log_probs=hypothesis.word_log_probs,
                attention=None if hypothesis.attention is None else _grid(hypothesis.attention),
            )
            for hypothesis in hypotheses
        )
        return captions[0] if wanted == 1 else replace(captions[0], alternatives=captions)


def _load_backend(checkpoint: Checkpoint, name: BackendName, device: str | None) -> Backend:
    on_cpu = device in (None, "cpu")
    if name == "onnx" and not on_cpu:
        raise ConfigError(f"The ONNX backend runs on the CPU, not on {device!r}; use the torch backend for that.")
    if name == "onnx" or (name == "auto" and on_cpu and checkpoint.has_onnx):
        from captioner.backends.onnx import OnnxBackend

        return OnnxBackend(checkpoint.folder)
    try:
        from captioner.backends.torch import TorchBackend
    except ModuleNotFoundError as error:
        raise MissingExtraError("The torch backend", "train") from error
    return TorchBackend.from_checkpoint(checkpoint, device)


def _name(number: int, source: object) -> str | None:
    """What errors call the `number`-th image; None for its path."""
    if isinstance(source, (str, os.PathLike)) or getattr(source, "filename", None):
        return None
    kind = {bytes: "bytes", np.ndarray: "array"}.get(type(source), type(source).__name__)
    return f"image {number} ({kind})"


def _grid(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, L) -> (T, h, w); the grid of an encoder is square."""
    side = math.isqrt(attention.shape[1])
    return attention.reshape(-1, side, side)
