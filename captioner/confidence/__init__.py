"""The probability that a caption is good: a logistic regression on signals of the decoder."""

from captioner.confidence.config import Calibration, Confidence
from captioner.confidence.signals import SignalReader

__all__ = ["Calibration", "Confidence", "SignalReader"]
