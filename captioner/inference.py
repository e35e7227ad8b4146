"""Caption images and clips with `Captioner`."""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from captioner.backends.choice import check_backend, load_backend
from captioner.backends.protocol import Backend, Encoded
from captioner.caption import Caption
from captioner.checkpoint import read_checkpoint
from captioner.confidence import Confidence
from captioner.confidence.captions import check_confidence, confidence_of_each
from captioner.decoding import Constraints, DecodingOptions, Hypothesis
from captioner.decoding.inclusion import of_each_image
from captioner.decoding.search import search
from captioner.errors import ConfigError, ImageError
from captioner.events.config import EventConfig
from captioner.images import ImageSource, open_image
from captioner.images.batches import as_iterable, check_whole, number_name, read_in_batches
from captioner.images.clips import ClipSource
from captioner.preprocessing import Preprocessing
from captioner.tags import Tag, TagConfig
from captioner.tags.saying import say_tags
from captioner.tags.tagger import LIMIT, THRESHOLD
from captioner.vocabulary import Vocabulary

if TYPE_CHECKING:
    from captioner.video.clip import Clip
    from captioner.video.parts import ClipInput

__all__ = ["NO_TAGS", "Caption", "Captioner"]

Folder: TypeAlias = str | os.PathLike[str]
Pixels: TypeAlias = NDArray[np.float32]  # (3, S, S), or (F, 3, S, S) of a clip
Includes: TypeAlias = list[tuple[str, ...]] | None

NO_TAGS = (
    "This model has no classifier, which tags require. Choose a model trained with model.tags from"
    " weights with a classifier."
)


class Captioner:
    """Caption images.

    Usually created by `Captioner.from_pretrained`; training creates one on the model it trains.

    A loaded captioner can be copied and pickled, by the names of its folders, for process pools,
    Ray and Spark. One of a model in training cannot be pickled.

    Args:
        backend: Runs the network.
        vocabulary: The model's vocabulary.
        preprocessing: Converts images to the network's input.
        decoding: The default decoding options.
        tags: The meaning of the classifier's logits; None for a model without tags.
        confidence: The confidence calibration; None for a model without one.
        frames: The number of frames that a model of clips sees; 0 for a model of photos.
        events: The meaning of the logits of events; None for a model without events.
    """

    def __init__(
        self,
        backend: Backend,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        decoding: DecodingOptions,
        tags: TagConfig | None = None,
        confidence: Confidence | None = None,
        frames: int = 0,
        events: EventConfig | None = None,
    ) -> None:
        self.backend = backend
        self.vocabulary = vocabulary
        self.preprocessing = preprocessing
        self.decoding = decoding
        self.tags = tags
        self.confidence = confidence
        self.frames = frames
        self.events = events

    @classmethod
    def from_pretrained(
        cls,
        folder: Folder | Sequence[Folder] | None = None,
        *,
        backend: str = "auto",
        device: str | None = None,
    ) -> "Captioner":
        """Load a checkpoint folder, or several as an ensemble.

        Args:
            folder: The folder, or a model of the hub, hf://owner/name@revision, which is downloaded
                once; the bundled model if None or "bundled". An ensemble averages the word
                probabilities of several models and uses the first one's decoding defaults; all need
                the same vocabulary and preprocessing, for example models trained with different
                seeds. It has no confidence, as each model was calibrated on its own captions, and
                no events.
            backend: "onnx" and "openvino" run on the CPU without torch, "torch" on any device;
                "auto" is the first of "openvino", where it is installed and computes in bfloat16,
                "onnx" and "torch" that can run the checkpoint on the device.
            device: "cpu", "cuda", "cuda:1", ...; None is the CPU.

        Raises:
            CheckpointError: The folder is not a checkpoint, or is damaged.
            ConfigError: There is no such backend or device, or the models cannot be combined.
            MissingExtraError: The torch backend is required, and torch is not installed.
        """
        check_backend(backend)
        several = isinstance(folder, Iterable) and not isinstance(folder, (str, bytes, os.PathLike))
        folders: Iterable[Any] = folder if several else [folder]  # type: ignore[assignment]
        checkpoints = [read_checkpoint(each) for each in folders]
        if not checkpoints:
            raise ConfigError("No checkpoint folder given; expected one or more.")
        first = checkpoints[0]
        backends = [load_backend(checkpoint, backend, device) for checkpoint in checkpoints]
        together, tags, confidence = backends[0], first.tags, first.confidence
        events = first.events if len(backends) == 1 else None
        if len(backends) > 1:
            from captioner.backends.ensemble import combine

            (together, tags), confidence = combine(checkpoints, backends), None
        facts = (first.vocabulary, first.preprocessing, first.decoding)
        return cls(together, *facts, tags, confidence, first.frames, events)

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
            images: Paths, bytes, PIL images and arrays in any mix (see
                `captioner.images.open_image`). A single image counts as a list of one. For a model
                of clips, paths are clips, and a list may contain everything that `caption_clip`
                accepts.
            on_error: For unreadable images, "raise" raises the error, "skip" returns None instead
                of a caption.
            batch_size: The largest batch to encode and decode. It doesn't change the captions.
            **decoding: Options of `DecodingOptions` that differ from the model's defaults, such as
                `beam_size=3`, `alternatives=3`, `include=["cat"]` or `sample=True, seed=1`.
                `include` may also be a list of lists, one for each image of a list of images.

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

    def caption_clip(self, clip: "ClipInput", **decoding: Any) -> Caption:
        """Caption a clip with a model of clips, which sees its frames in order.

        Args:
            clip: A path, or a file's bytes; a part of a clip, such as
                `ClipPart("party.mp4", start=3, end=7.5)`; or its frames in order, as images of any
                kind that `caption` accepts. The model sees `frames` of them, evenly spaced.
            **decoding: As for `caption`.

        Raises:
            ConfigError: The model captions photos; or as for `caption`.
            ImageError: The clip cannot be read.
            MissingExtraError: PyAV, the extra `video`, is not installed.
        """
        if not self.frames:
            raise ConfigError(
                "This model captions photos, not clips. Choose a model trained on clips, with"
                " model.temporal."
            )
        sources: list[Any] = [clip]
        captions: list[Caption] = self.caption(sources, **decoding)
        return captions[0]

    def stream(
        self,
        images: Iterable[ImageSource] | ImageSource,
        *,
        batch_size: int = 32,
        first_image: int = 0,
        **decoding: Any,
    ) -> Generator[Caption | ImageError, None, None]:
        """Caption any number of images in constant memory.

        While a batch is captioned, only the images of the next one are read in the background. The
        first batches are smaller, for a low latency of the first captions.

        Args:
            images: As for `caption`; consumed lazily.
            batch_size: As for `caption`.
            first_image: The first image's index among all that are sampled with the same seed.
            **decoding: As for `caption`.

        Returns:
            An iterator over the captions in the order of the images; the error in place of the
            caption for an unreadable image.

        Raises:
            ConfigError: An option is unknown or out of range.
        """
        check_whole("batch_size", batch_size, least=1)
        check_whole("first_image", first_image, least=0)
        sources = as_iterable(images)
        options, include = self._options(
            decoding, len(sources) if isinstance(sources, Sized) else None
        )
        return self._stream(iter(sources), batch_size, options, include, first_image)

    def caption_video(
        self,
        clip: ClipSource,
        *,
        every: float | None = None,
        batch_size: int = 32,
        first_image: int = 0,
        longest: float | None = None,
        **decoding: Any,
    ) -> "Clip":
        """Caption a clip shot by shot.

        Two frames per second are encoded. A new shot begins where the encoder's features change,
        and the frame nearest to the mean features of a shot is captioned. A model of clips captions
        each shot from several frames; its shots are found by colours. Adjacent shots with the same
        caption are merged. Memory doesn't depend on the clip's length, and for clips of more than
        an hour neither does the time (see `captioner.video.frames`). Requires the extra `video`.

        Args:
            clip: The path of a clip in any container that FFmpeg reads, or its bytes.
            every: Caption one frame every this many seconds instead, without merging.
            batch_size: As for `caption`.
            first_image: As for `stream`.
            longest: The maximum length of a clip in seconds; longer clips are an error.
            **decoding: As for `caption`.

        Returns:
            The timeline: shots with their start, their end and their caption; and one caption for
            the whole clip.

        Raises:
            VideoError: The clip cannot be read, or the extra `video` is not installed.
            ConfigError: An option is unknown or out of range.
        """
        from captioner.video.frames import Frames
        from captioner.video.timeline import caption_frames

        check_whole("batch_size", batch_size, least=1)
        self._options(decoding, None)  # fails early, before the clip is read
        frames = Frames(clip, every=every, size=self.preprocessing.size, longest=longest)
        return caption_frames(
            self,
            frames,
            clip,
            steps=every is not None,
            batch_size=batch_size,
            first_image=first_image,
            **decoding,
        )

    def tag(
        self,
        images: Iterable[ImageSource] | ImageSource,
        *,
        threshold: float = THRESHOLD,
        limit: int = LIMIT,
        batch_size: int = 32,
    ) -> list[tuple[Tag, ...]]:
        """Tag images with the encoder's classifier, without captioning them.

        Args:
            images: As for `caption`.
            threshold: Minimum probability of a tag, from 0 to 1.
            limit: Maximum number of tags per image.
            batch_size: As for `caption`.

        Returns:
            The tags of each image, in order, most likely first; empty if none reaches the
            threshold.

        Raises:
            ImageError: An image cannot be read.
            ConfigError: The model has no classifier, or an option is out of range.
        """
        check_whole("batch_size", batch_size, least=1)
        if self.tags is None:
            raise ConfigError(NO_TAGS)
        tagger = self.tags.tagger
        tagger.check(threshold, limit)
        tags: list[tuple[Tag, ...]] = []
        for stepper in self.encode(images, batch_size=batch_size):
            if stepper.classes is None:
                tags += [()] * stepper.batch_size
            else:
                tags += tagger.tags(stepper.classes, threshold=threshold, limit=limit)
        return tags

    def check_confidence(self, **decoding: Any) -> None:
        """Check that captions get a confidence.

        Args:
            **decoding: As for `caption`.

        Raises:
            ConfigError: The model or the style was not calibrated, captions are sampled or must
                include something, or an option is unknown or out of range.
        """
        options, include = self._options(decoding, None)
        check_confidence(self.confidence, options, including=include is not None)

    def encode(
        self, images: Iterable[ImageSource] | ImageSource, *, batch_size: int = 32
    ) -> Generator[Encoded, None, None]:
        """Read and encode images, for `decode`.

        Args:
            images: As for `caption`; consumed lazily.
            batch_size: As for `caption`.

        Returns:
            An iterator over encoded batches, in the order of the images.

        Raises:
            ImageError: An image cannot be read.
            ConfigError: The batch size is out of range.
        """
        check_whole("batch_size", batch_size, least=1)
        with closing(read_in_batches(iter(as_iterable(images)), batch_size, self._read)) as batches:
            for batch in batches:
                pixels = []
                for result in batch:
                    if isinstance(result, ImageError):
                        raise result
                    pixels.append(result)
                yield self.backend.encode(np.stack(pixels))

    def decode(self, stepper: Encoded, *, first_image: int = 0, **decoding: Any) -> list[Caption]:
        """Caption images that are already encoded.

        Args:
            stepper: The encoded images, as `encode` or a backend's `encode` returns them. They can
                be decoded any number of times.
            first_image: As for `stream`.
            **decoding: As for `caption`.

        Returns:
            A caption for each image, in their order.

        Raises:
            ConfigError: An option is unknown or out of range.
        """
        check_whole("first_image", first_image, least=0)
        fresh = stepper.again(np.arange(stepper.batch_size))
        return self._decode(fresh, *self._options(decoding, fresh.batch_size), first_image)

    def _options(
        self, changes: dict[str, Any], n_images: int | None
    ) -> tuple[DecodingOptions, Includes]:
        """Resolve the options; and each image's words to include, if given as a list of lists."""
        include = of_each_image(changes.get("include"), n_images)
        if include is not None:
            changes = {**changes, "include": ()}
        options = self.decoding.changed(changes) if changes else self.decoding
        if include is not None:
            include = [replace(options, include=each).include for each in include]
        Constraints.from_options(options, self.vocabulary, include)  # fails for unknown words
        return options, include

    def _stream(
        self,
        sources: Iterator[ImageSource],
        batch_size: int,
        options: DecodingOptions,
        include: Includes,
        first_image: int,
    ) -> Generator[Caption | ImageError, None, None]:
        seen = 0  # images
        # Only readable images are counted, so that sampling doesn't depend on the batches.
        captioned = first_image
        with closing(read_in_batches(sources, batch_size, self._read)) as batches:
            for batch in batches:
                included = None if include is None else include[seen : seen + len(batch)]
                results = self._caption_batch(batch, options, included, captioned)
                seen += len(batch)
                captioned += sum(isinstance(result, Caption) for result in results)
                yield from results

    def _read(self, number: int, source: ImageSource) -> Pixels | ImageError:
        """Read and preprocess one image or clip; its error is a result like any other."""
        try:
            size = self.preprocessing.size
            if self.frames:
                from captioner.video.parts import frames_of

                return np.stack(list(map(self.preprocessing, frames_of(source, self.frames, size))))
            image = open_image(source, name=number_name(number, source), min_size=size)
            return self.preprocessing(image)
        except ImageError as error:
            return error

    def _caption_batch(
        self,
        read: list[Pixels | ImageError],
        options: DecodingOptions,
        include: Includes,
        first_image: int,
    ) -> list[Caption | ImageError]:
        pixels = [result for result in read if not isinstance(result, ImageError)]
        if include is not None:
            include = [
                each
                for each, result in zip(include, read, strict=True)
                if not isinstance(result, ImageError)
            ]
        captions: Iterator[Caption] = iter(())
        if pixels:
            encoded = self.backend.encode(np.stack(pixels))
            captions = iter(self._decode(encoded, options, include, first_image))
        return [result if isinstance(result, ImageError) else next(captions) for result in read]

    def _decode(
        self, stepper: Encoded, options: DecodingOptions, include: Includes, first_image: int
    ) -> list[Caption]:
        constraints = Constraints.from_options(options, self.vocabulary, include)
        found = search(stepper, options, constraints, first_image=first_image)
        finished = all(hypotheses[0].finished for hypotheses in found)
        if constraints.inclusion is not None and not finished:
            raise ConfigError(
                "No caption can include all required words; raise max_length, or include fewer."
            )
        tags: list[tuple[Tag, ...]] = [()] * len(found)
        if self.tags is not None and stepper.classes is not None:
            tagger = self.tags.tagger
            nouns = tagger.probabilities(stepper.classes)
            tags = tagger.select(nouns)
            if options.say_tags and not options.sample:
                found = say_tags(
                    found, nouns, tagger, stepper.again, options, self.vocabulary, include
                )
        confidences = confidence_of_each(
            self.confidence, found, self.vocabulary.text, options, stepper.classes, self.tags
        )
        if include is not None:
            confidences = [
                None if asked else confidence
                for asked, confidence in zip(include, confidences, strict=True)
            ]
        return [
            self._to_caption(*each, options.alternatives)
            for each in zip(found, tags, confidences, strict=True)
        ]

    def _to_caption(
        self,
        hypotheses: list[Hypothesis],
        tags: tuple[Tag, ...],
        confidence: float | None,
        wanted: int,
    ) -> Caption:
        captions = tuple(
            Caption.of(hypothesis, self.vocabulary, tags, None if rank else confidence, self.frames)
            for rank, hypothesis in enumerate(hypotheses)
        )
        return captions[0] if wanted == 1 else replace(captions[0], alternatives=captions)
