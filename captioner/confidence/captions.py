"""The confidence of captions that a search has found."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from captioner.confidence.config import Confidence
from captioner.confidence.signals import SignalReader
from captioner.decoding import DecodingOptions, Hypothesis
from captioner.errors import ConfigError
from captioner.tags import TagConfig

NO_CONFIDENCE = (
    "This model gives no confidence: it was not calibrated. Calibrate it on photos with captions by"
    " people: captioner calibrate --model DIR --annotations FILE"
)


def check_confidence(
    confidence: Confidence | None, options: DecodingOptions, *, including: bool = False
) -> None:
    """Make sure that captions get a confidence.

    Args:
        confidence: The model's calibrations.
        options: How captions are searched for.
        including: Whether some must include something of their own.

    Raises:
        ConfigError: They don't: see `captioner.inference.Captioner.check_confidence`.
    """
    if confidence is None:
        raise ConfigError(NO_CONFIDENCE)
    if options.sample or options.include or including:
        how = "are sampled" if options.sample else "must include words"
        raise ConfigError(
            f"Captions that {how} have no confidence; it was calibrated on captions by"
            " unconstrained beam search."
        )
    if options.style not in confidence.styles:
        known = ", ".join(style or "the plain one" for style in confidence.styles)
        raise ConfigError(
            f"The confidence of the style {options.style or 'plain'} was not calibrated; that"
            f" of {known} was. Calibrate it: captioner calibrate --style NAME"
        )


def confidence_of_each(
    confidence: Confidence | None,
    found: Sequence[Sequence[Hypothesis]],
    text: Callable[[Sequence[int]], str],
    options: DecodingOptions,
    classes: NDArray[np.floating] | None,
    tags: TagConfig | None,
) -> list[float | None]:
    """Compute the probability that the best caption of each image is good, where it can be told.

    Args:
        confidence: The model's calibrations; None gives no probabilities.
        found: The hypotheses of each of B images, the best first.
        text: Puts the ids of words into text.
        options: How they were searched for.
        classes: (B, C) the scores of the model's classifier; None for a model without one.
        tags: What these stand for.
    """
    calibration = None if confidence is None else confidence.styles.get(options.style)
    if calibration is None or options.sample or options.include:
        return [None] * len(found)
    best = [hypotheses[0] for hypotheses in found]
    reader = SignalReader(tags if calibration.needs_tags else None)
    signals = reader.read(
        [text(hypothesis.words) for hypothesis in best],
        [hypothesis.word_log_probs for hypothesis in best],
        classes,
    )
    probabilities: list[float | None] = calibration.probability(signals, reader.names).tolist()
    return probabilities
