"""Caption a photo and find, for each word, which parts of the photo it owes itself to."""

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
from captioner.files import replacing
from captioner.images import ImageSource, open_image
from captioner.inference import Captioner

Method = Literal["attention", "occlusion", "gradient"]
METHODS: tuple[Method, ...] = get_args(Method)

NOTES: dict[Method, str] = {
    "attention": (
        "Bright is where the model looked as it chose the word; each word has a scale of its own."
    ),
    "occlusion": "Bright is what makes the word less probable if it is hidden.",
    "gradient": (
        "Bright is where small changes of the photo change the probability of the word most."
    ),
}

MARK = "captioner explain"  # stands in every file, so that no other one is replaced
_MARKED = {".png": "Software", ".pdf": "Creator", ".svg": "Creator"}  # where it stands in a figure
_LONGEST = 640  # pixels of the photo that is shown
_FAINTEST = 0.2  # of the strongest word's peak: the least that is drawn in full colour


@dataclass(frozen=True, eq=False)
class Explanation:
    """A caption, and a map over the photo for each of its words.

    Attributes:
        photo: The part of the photo that the encoder saw, in its own proportions: the maps lie over
            it.
        caption: The caption.
        method: How the maps were found: see `explain`.
        maps: (T, h, w), by method: "attention", the model's own weights, which sum to 1 for each
            word; "occlusion", by how much the word's log-probability falls if that part is hidden,
            below 0 where it rises; "gradient", how strongly the word's log-probability depends on
            the pixels there.
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
        """The probability of each word given those before it, (T,)."""
        probabilities: NDArray[np.float64] = np.exp(np.array(self.caption.word_log_probs))
        return probabilities

    @property
    def note(self) -> str:
        """A sentence that says what bright means."""
        return NOTES[self.method]

    def shown(self, size: int | tuple[int, int] | None = None) -> Float32Array:
        """Enlarge the maps smoothly and scale each for the eye.

        Each word has a scale of its own: 1 is its peak. Only where a word depends on the photo far
        less than others of the caption ("occlusion", "gradient"), its map stays faint.

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

        The file is whole or not there; an earlier explanation is replaced, any other file is not.

        Raises:
            ConfigError: The file name has another suffix, or the file is there and is no
                explanation.
            MissingExtraError: matplotlib isn't installed.
            OSError: It cannot be written.
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
        method: "attention": where the model looked as it chose the word (Xu et al. 2015), for
            models with attention and their default. "occlusion": by how much the word's
            log-probability falls if a patch is hidden (Zeiler and Fergus 2014), for all models and
            backends. "gradient": how the word's log-probability depends on each pixel (Simonyan et
            al. 2014), averaged over slightly noisy copies (Smilkov et al. 2017); torch backend
            only.
        batch_size: The most images that are encoded at once, for "occlusion" and "gradient".
        **decoding: Options of `DecodingOptions` that differ from the model's defaults, as for
            `Captioner.caption`.

    Returns:
        The caption, the best one if several are asked for, with its maps.

    Raises:
        ImageError: The image cannot be read.
        ConfigError: There is no such method, or none for this model; or a decoding option is wrong.
    """
    if captioner.frames:
        raise ConfigError("This model captions clips, of which there are no maps; choose another.")
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
            "This model has no attention to show: it sees the whole photo at once. Take the method"
            " occlusion (--method occlusion), which hides parts of the photo; or gradient, with the"
            " torch backend."
        )
    return caption.attention


def _gradient_of(backend: Backend) -> Callable[..., Float32Array]:
    """The method gradient on this backend, before anything is computed."""
    if "torch" in sys.modules:  # else there is no torch backend
        from captioner.backends.torch import TorchBackend
        from captioner.explain.gradient import smooth_gradient

        if isinstance(backend, TorchBackend):
            return partial(smooth_gradient, backend)
    raise ConfigError(
        "The method gradient needs the torch backend (--backend torch); the method occlusion works"
        " with all."
    )


def check_output(path: str | os.PathLike[str]) -> str:
    """Make sure that an explanation can be written to a file of this name; its suffix.

    Raises:
        ConfigError: The file name has no suffix of a kind that can be written, or the file is there
            and is no explanation.
        MissingExtraError: It is to be a figure, and matplotlib isn't installed.
    """
    from importlib.util import find_spec

    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".pdf", ".svg", ".html"):
        raise ConfigError(
            f"{os.fspath(path)}: expected a name that ends in .png, .pdf, .svg or .html."
        )
    if suffix != ".html" and find_spec("matplotlib") is None:
        raise MissingExtraError("A figure (unlike .html)", "explain")
    if (
        os.path.isfile(path)
        and os.path.getsize(path)
        and MARK.encode() not in Path(path).read_bytes()
    ):
        raise ConfigError(
            f"{os.fspath(path)} is there already and is no figure of captioner's; expected another"
            " name."
        )
    return suffix
