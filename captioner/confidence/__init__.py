"""How likely a caption is good: a logistic regression on signals that captioning has anyway."""

from captioner.confidence.config import Calibration, Confidence
from captioner.confidence.signals import SignalReader

__all__ = ["Calibration", "Confidence", "SignalReader"]
