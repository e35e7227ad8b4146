"""How likely a caption is good: from signals that captioning has anyway, by a fitted logistic regression."""

from captioner.confidence.config import Calibration, Confidence
from captioner.confidence.signals import SignalReader

__all__ = ["Calibration", "Confidence", "SignalReader"]
