"""A checkpoint -> a bundle of a third of its size, whose CNN computes in 8-bit integers.

The CNN is quantized statically: its activations are 8-bit integers whose ranges come from
calibration photos. All weights are stored in 4 to 8 bits, and rounded to minimise the change of the
layers' outputs for the calibration photos (`rounding.py`).
"""

from captioner.quantization.calibration import PHOTOS
from captioner.quantization.packing import pack
from captioner.quantization.quantize import quantize

__all__ = ["PHOTOS", "pack", "quantize"]
