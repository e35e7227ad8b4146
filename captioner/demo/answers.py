"""Caption a photo or a clip, as data for the page and the API. Independent of Gradio."""

import math
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from captioner.caption import Caption
from captioner.decoding.options import decoding_options
from captioner.demo.limits import LONGEST_CLIP, check_options
from captioner.errors import CaptionerError, ImageError
from captioner.explain import photo_seen
from captioner.inference import Captioner
from captioner.templates import data_uri
from captioner.video.subtitles import subtitles

_LONGEST = 640  # pixels of the photo that is shown under the maps
_QUALITY = 85  # of its JPEG


def api_answer(
    captioner: Captioner, path: Path, name: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Caption a photo for the API.

    Args:
        captioner: The model.
        path: The photo.
        name: The name of the uploaded file.
        options: Decoding options; None means the model's default.

    Returns:
        The output of `captioner caption --json` without the path: caption, log_prob, confidence,
        alternatives, tags.

    Raises:
        CaptionerError: The photo or an option is invalid; the message is for the visitor.
    """
    try:
        return _caption(captioner, path, options).to_dict()
    except ImageError as error:
        raise ImageError(_quoted(name), _reason(error)) from error


def page_answer(
    captioner: Captioner, path: Path, name: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Caption a photo for the page.

    Args:
        captioner: The model.
        path: The photo.
        name: The name of the uploaded file.
        options: Decoding options; None means the model's default.

    Returns:
        Either `message`, a sentence that says why there is no caption, or everything the page
        shows: `photo`, the photo as seen by the encoder, as a data URI; `width` and `height` in
        pixels; `captions`, the best first, each with `text`, `probability` and `words`: `word`,
        `joined` (no space before it), `probability`, and `map`, the attention (h, w), or None for
        models without attention; `confidence`, the probability that the best caption is good, or
        None if not calibrated; and `tags`, each with `noun` and `probability`.
    """
    try:
        caption = _caption(captioner, path, options)
        photo = photo_seen(captioner, path, longest=_LONGEST)
    except CaptionerError as error:
        return {"message": _message(error, name)}
    return {
        "photo": _data_uri(photo),
        "width": photo.width,
        "height": photo.height,
        "confidence": caption.confidence,
        "tags": [tag.to_dict() for tag in caption.tags],
        "captions": [_to_dict(one) for one in caption.alternatives or (caption,)],
    }


def clip_answer(
    captioner: Captioner, path: Path, name: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Caption a clip for the page.

    Args:
        captioner: The model.
        path: The clip.
        name: The name of the uploaded file.
        options: Decoding options; None means the model's default. Only the best caption is shown.

    Returns:
        Either `message`, a sentence that says why there is no timeline, or `summary`, a sentence
        for the whole clip; `shots`, each with `start` and `end` in seconds and `text`; and `vtt`,
        the same as a track of WebVTT.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        check_options(given)
        clip = captioner.caption_video(path, longest=LONGEST_CLIP, **{**given, "alternatives": 1})
    except CaptionerError as error:
        return {"message": _message(error, name)}
    return {
        "summary": clip.summary.text,
        "shots": [
            {"start": shot.start, "end": shot.end, "text": shot.caption.text} for shot in clip.shots
        ],
        "vtt": subtitles(clip.shots, "vtt"),
    }


def page_options(captioner: Captioner, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of the page's controls to consistent decoding options.

    Beam search cannot give more captions than it has beams and has no temperature. A minimum
    length that is the model's default is lowered to a chosen maximum length.

    Args:
        captioner: The model.
        chosen: The values of all controls by the names of their options; words as one line,
            separated by commas.

    Returns:
        The options.

    Raises:
        ConfigError: A control has an invalid value, which the page itself never sends.
    """
    options: dict[str, Any] = {}
    for option in decoding_options():
        value = chosen.get(option.name)
        if isinstance(value, str) and option.is_words:
            value = option.words(value)
        if option.needs and not chosen[option.needs]:
            options[option.name] = option.default  # the model's default would be rejected
        elif option.name in chosen:
            option.check(option.settle(value))
            options[option.name] = value
    if not options["sample"]:
        options["alternatives"] = min(options["alternatives"], options["beam_size"])
    return {**options, "min_length": min(captioner.decoding.min_length, options["max_length"])}


def _caption(captioner: Captioner, path: Path, options: Mapping[str, Any]) -> Caption:
    given = {name: value for name, value in options.items() if value is not None}
    check_options(given)
    captions: list[Caption] = captioner.caption(path, **given)
    return captions[0]


def _to_dict(caption: Caption) -> dict[str, Any]:
    words = []
    end = 0
    for number, word in enumerate(caption.words):
        start = caption.text.find(word, end)
        words.append(
            {
                "word": word,
                "joined": (
                    start == end
                ),  # "the dog's": no space before the second word, nor before the first
                "probability": math.exp(caption.word_log_probs[number]),
                "map": (
                    None
                    if caption.attention is None
                    else caption.attention[number].round(5).tolist()
                ),
            }
        )
        end = start + len(word)
    return {"text": caption.text, "probability": math.exp(caption.log_prob), "words": words}


def _data_uri(photo: Image.Image) -> str:
    file = BytesIO()
    photo.save(file, "JPEG", quality=_QUALITY)
    return data_uri(file.getvalue(), "image/jpeg")


def _message(error: CaptionerError, name: str) -> str:
    """Say why there is nothing to show, with the uploaded file's name rather than its path."""
    return f"{_quoted(name)} {_reason(error)}." if isinstance(error, ImageError) else str(error)


def _quoted(name: str) -> str:
    return f"“{name}”"


def _reason(error: ImageError) -> str:
    """Return the reason without details for programmers."""
    if error.reason == "does not exist":
        return "is no longer on the server: choose it again"
    return re.sub(r" \(.*\)$", "", error.reason)
