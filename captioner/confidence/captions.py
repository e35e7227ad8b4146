"""Compute the confidence of decoded captions."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from captioner.confidence.config import Confidence
from captioner.confidence.signals import SignalReader
from captioner.decoding import DecodingOptions, Hypothesis
from captioner.errors import ConfigError
from captioner.tags import TagConfig

NO_CONFIDENCE = (
    "This model has no confidence calibration. Calibrate it on photos with captions by people:"
    " captioner calibrate --model DIR --annotations FILE"
)


def check_confidence(
    confidence: Confidence | None, options: DecodingOptions, *, including: bool = False
) -> None:
    """Check that captions will have a confidence.

    Args:
        confidence: The model's calibrations.
        options: The decoding options.
        including: Whether some captions must include words given for their image.

    Raises:
        ConfigError: They won't: see `captioner.inference.Captioner.check_confidence`.
    """
    if confidence is None:
        raise ConfigError(NO_CONFIDENCE)
    if options.sample or options.include or including:
        how = "are sampled" if options.sample else "must include words"
        raise ConfigError(
            f"Captions that {how} have no confidence: the calibration holds only for captions by"
            " unconstrained beam search."
        )
    if options.style not in confidence.styles:
        known = ", ".join(style or "the plain one" for style in confidence.styles)
        raise ConfigError(
            f"The style {options.style or 'plain'} has no confidence calibration (calibrated:"
            f" {known}). Calibrate it: captioner calibrate --style NAME"
        )


def confidence_of_each(
    confidence: Confidence | None,
    found: Sequence[Sequence[Hypothesis]],
    text: Callable[[Sequence[int]], str],
    options: DecodingOptions,
    classes: NDArray[np.floating] | None,
    tags: TagConfig | None,
) -> list[float | None]:
    """Compute the probability that the best caption of each image is good.

    Args:
        confidence: The model's calibrations; None gives no probabilities.
        found: The hypotheses of each of B images, the best first.
        text: Converts word ids to text.
        options: The decoding options.
        classes: (B, C) the logits of the model's classifier; None for a model without one.
        tags: The meaning of the logits.

    Returns:
        A probability for each image; None if the caption's style is not calibrated.
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
