"""Caption a photo, and map each word to the parts of the photo that it depends on."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.backends.protocol import Backend
from captioner.caption import Caption
from captioner.errors import ConfigError, MissingExtraError
from captioner.explain.maps import Float32Array, enlarge, photo_seen
from captioner.explain.occlusion import occlude
from captioner.files import check_folder_of, replacing
from captioner.images import ImageSource, open_image
from captioner.inference import Captioner

Method = Literal["attention", "occlusion", "gradient"]
METHODS: tuple[Method, ...] = get_args(Method)

NOTES: dict[Method, str] = {
    "attention": (
        "Bright is where the model looked when it chose the word; each word has its own scale."
    ),
    "occlusion": "Bright areas make the word less probable when they are hidden.",
    "gradient": (
        "In bright areas, small changes of the photo change the word's probability the most."
    ),
}

MARK = "captioner explain"  # written to every file, so that no other file is overwritten
_MARKED = {".png": "Software", ".pdf": "Creator", ".svg": "Creator"}  # its metadata key
_LONGEST = 640  # pixels of the photo shown
_FAINTEST = 0.2  # of the strongest word's peak; weaker words are drawn faintly


@dataclass(frozen=True, eq=False)
class Explanation:
    """A caption, and a map over the photo for each of its words.

    Attributes:
        photo: The part of the photo that the encoder saw, in its original aspect ratio; the maps
            cover it.
        caption: The caption.
        method: The method: see `explain`.
        maps: (T, h, w). For "attention" the attention weights, which sum to 1 for each word; for
            "occlusion" the drop of the word's log-probability if that part is hidden (negative for
            a rise); for "gradient" the gradient magnitude of the word's log-probability.
    """

    photo: Image.Image
    caption: Caption
    method: Method
    maps: Float32Array

    @property
    def words(self) -> tuple[str, ...]:
        """The caption's words, T of them."""
        return self.caption.words

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """The probability of each word given the previous words (T,)."""
        probabilities: NDArray[np.float64] = np.exp(np.array(self.caption.word_log_probs))
        return probabilities

    @property
    def note(self) -> str:
        """A sentence that explains the colours."""
        return NOTES[self.method]

    def shown(self, size: int | tuple[int, int] | None = None) -> Float32Array:
        """Upsample the maps smoothly and scale them for display.

        Each word is scaled to a peak of 1. Words that depend on the photo much less than others
        ("occlusion", "gradient") get a lower peak.

        Args:
            size: S for (S, S), or (width, height); the photo's if None.

        Returns:
            (T, H, W), from 0 to 1.
        """
        maps = enlarge(np.maximum(self.maps, 0), self.photo.size if size is None else size)
        peaks = maps.max(axis=(1, 2), initial=0)
        least = 0.0 if self.method == "attention" else _FAINTEST * peaks.max(initial=0)
        peaks = np.maximum(peaks, max(least, np.finfo(np.float32).tiny))
        shown: Float32Array = maps / peaks[:, None, None]
        return shown

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a figure (.png, .pdf, .svg; needs the extra `explain`) or a self-contained .html.

        The file is written atomically. An earlier explanation is replaced, other files are not.

        Raises:
            ConfigError: The file name has another suffix, or the file exists and is not an
                explanation.
            MissingExtraError: matplotlib isn't installed.
            OSError: The file cannot be written.
        """
        if check_output(path) == ".html":
            from captioner.explain.html_figure import to_html

            with replacing(path) as partial:
                partial.write_text(to_html(self), encoding="utf-8")
            return
        from captioner.explain.figure import draw

        suffix = Path(path).suffix.lower()
        with replacing(path) as partial:
            draw(self).savefig(partial, format=suffix[1:], metadata={_MARKED[suffix]: MARK})


def explain(
    captioner: Captioner,
    image: ImageSource,
    method: Method | None = None,
    *,
    batch_size: int = 32,
    **decoding: Any,
) -> Explanation:
    """Caption a photo and map each word onto it.

    Args:
        captioner: The model.
        image: A path, bytes, a PIL image or an array (see `captioner.images.open_image`).
        method: "attention": where the model looked when it chose the word (Xu et al. 2015); the
            default for models with attention, and only for them. "occlusion": how much the word's
            log-probability drops if a patch is hidden (Zeiler and Fergus 2014), for all models and
            backends. "gradient": how the word's log-probability depends on each pixel (Simonyan et
            al. 2014), averaged over slightly noisy copies (Smilkov et al. 2017); torch backend
            only.
        batch_size: The largest batch of images to encode, for "occlusion" and "gradient".
        **decoding: Options of `DecodingOptions` that differ from the model's defaults, as for
            `Captioner.caption`.

    Returns:
        The best caption with its maps.

    Raises:
        ImageError: The image cannot be read.
        ConfigError: The method is unknown or not supported by this model or backend, or a decoding
            option is invalid.
    """
    if captioner.frames:
        raise ConfigError("Maps are not supported for models of clips; choose a model of photos.")
    if method is not None and method not in METHODS:
        raise ConfigError(f"method is {method!r}; expected {', '.join(METHODS)}.")
    saliency = (
        partial(occlude, captioner.backend)
        if method != "gradient"
        else _gradient_of(captioner.backend)
    )
    pixels = captioner.preprocessing(
        open_image(image, min_size=captioner.preprocessing.size)
    )  # (3, S, S)
    (caption,) = captioner.decode(captioner.backend.encode(pixels[None]), **decoding)
    if method in (None, "attention"):
        maps = _attention_of(caption)
    else:
        words = [captioner.vocabulary.index(word) for word in caption.words]
        start = captioner.vocabulary.start(decoding.get("style", captioner.decoding.style))
        maps = saliency(pixels, words, batch_size=batch_size, start=start)
    return Explanation(
        photo_seen(captioner, image, longest=_LONGEST), caption, method or "attention", maps
    )


def _attention_of(caption: Caption) -> Float32Array:
    if caption.attention is None:
        raise ConfigError(
            "This model has no attention. Use the method occlusion (--method occlusion), which"
            " hides parts of the photo, or gradient, with the torch backend."
        )
    return caption.attention


def _gradient_of(backend: Backend) -> Callable[..., Float32Array]:
    """Return the gradient method for this backend, or fail early."""
    if "torch" in sys.modules:  # else there is no torch backend
        from captioner.backends.torch import TorchBackend
        from captioner.explain.gradient import smooth_gradient

        if isinstance(backend, TorchBackend):
            return partial(smooth_gradient, backend)
    raise ConfigError(
        "The method gradient requires the torch backend (--backend torch); the method occlusion"
        " works with all backends."
    )


def check_output(path: str | os.PathLike[str]) -> str:
    """Check that an explanation can be written to a file, and return its suffix.

    Raises:
        ConfigError: The suffix is not supported, the folder does not exist, or the file exists and
            is not an explanation.
        MissingExtraError: The file is a figure, and matplotlib isn't installed.
    """
    from importlib.util import find_spec

    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".pdf", ".svg", ".html"):
        raise ConfigError(
            f"{os.fspath(path)}: expected a file name ending in .png, .pdf, .svg or .html."
        )
    check_folder_of(path)
    if suffix != ".html" and find_spec("matplotlib") is None:
        raise MissingExtraError("A figure (unlike .html)", "explain")
    if (
        os.path.isfile(path)
        and os.path.getsize(path)
        and MARK.encode() not in Path(path).read_bytes()
    ):
        raise ConfigError(
            f"{os.fspath(path)} already exists and is not a figure by captioner; choose another"
            " name."
        )
    return suffix
