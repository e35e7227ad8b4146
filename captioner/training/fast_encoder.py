"""Run a frozen encoder with the fastest engine: ONNX Runtime on a CPU in float32, else torch.

On a CPU, ONNX Runtime takes less than half of torch's time. Both compute in float32, and their
features differ by less than the rounding to float16 for the cache, so they are interchangeable.
"""

import logging
from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captioner.export import trace

logger = logging.getLogger(__name__)

Encode = Callable[[Tensor], NDArray[np.float16]]
"""Images (B, 3, S, S) -> features (B, L, D); clips (B, F, 3, S, S) -> (B, F * L, D)."""

WORTHWHILE = 500  # images; exporting takes as long as encoding some hundreds
TOLERANCE = 1e-3  # maximum difference between engines, relative to the largest feature


def fastest_encode(
    encoder: nn.Module, image_size: int, n_images: int, *, frames: int = 1
) -> Encode:
    """Find the fastest way to encode images with a frozen encoder in evaluation mode.

    Args:
        encoder: Pixels (B, 3, S, S) -> features (B, L, D).
        image_size: S.
        n_images: The number of images or clips to encode.
        frames: The number of frames of each; more than 1 for clips.
    """
    device = next(encoder.parameters()).device

    def by_torch(pixels: Tensor) -> NDArray[np.float16]:
        with torch.inference_mode():
            features: NDArray[np.float16] = encoder(pixels.to(device)).half().cpu().numpy()
        return features

    few = n_images * frames < WORTHWHILE
    if few or device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return by_torch
    try:
        return onnx_encode(encoder, image_size)
    except Exception as error:  # torch supports whatever the exporter or ONNX Runtime doesn't
        logger.info("ONNX Runtime cannot compute these features; using torch (%s)", error)
        return by_torch


def onnx_encode(encoder: nn.Module, image_size: int) -> Encode:
    """Export an encoder to ONNX Runtime, and compare its features with torch's.

    Args:
        encoder: On the CPU, in evaluation mode.
        image_size: S, the side of its images in pixels.

    Raises:
        ValueError: The features differ.
        Exception: Any error of the exporter or ONNX Runtime.
    """
    random = np.random.default_rng(0)
    pixels = random.normal(size=(2, 3, image_size, image_size)).astype(np.float32)
    graph = trace(encoder, (torch.from_numpy(pixels),), ["pixels"], ["features"], ({0: "B"},))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(pixels)).numpy()
    difference = np.abs(session.run(None, {"pixels": pixels})[0] - expected).max()
    if not difference <= TOLERANCE * np.abs(expected).max():
        raise ValueError(f"its features differ by {difference:.1e}")

    def encode(pixels: Tensor) -> NDArray[np.float16]:
        images = pixels.flatten(0, -4)  # of clips, their frames one by one
        parts = [
            session.run(None, {"pixels": part.numpy()})[0]
            for part in (images[start : start + 4] for start in range(0, len(images), 4))
        ]
        features = np.concatenate(parts).astype(np.float16)
        return features.reshape(len(pixels), -1, features.shape[2])

    return encode
