"""Run a frozen encoder with the fastest engine.

ONNX Runtime    on a CPU in float32: less than half of torch's time. The features differ by less
                than the rounding to float16 for the cache.
OpenVINO        on a CPU in bfloat16, where it is installed: half of torch's time. The features are
                as far from those of float32 as torch's.
torch           elsewhere
"""

import logging
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captioner.backends.onnx import Session, session_options
from captioner.backends.openvino import has_bfloat16, load_graph
from captioner.export import trace

logger = logging.getLogger(__name__)

Encode = Callable[[Tensor], NDArray[np.float16]]
"""Images (B, 3, S, S) -> features (B, L, D); clips (B, F, 3, S, S) -> (B, F * L, D)."""

Pixels = NDArray[np.float32]

WORTHWHILE = 500  # images; exporting takes as long as encoding some hundreds
TOLERANCE = 1e-3  # maximum difference between engines, relative to the largest feature
TOLERANCE_BFLOAT16 = 0.2  # norm of the difference from float32, relative to that of the features


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
    if few or device.type != "cpu":
        return by_torch
    name, find = "ONNX Runtime", onnx_encode
    if torch.is_autocast_enabled("cpu"):
        if not _openvino_computes(torch.get_autocast_dtype("cpu")):
            return by_torch
        name, find = "OpenVINO", openvino_encode
    try:
        return find(encoder, image_size)
    except Exception as error:  # torch supports whatever the exporter or the engine doesn't
        logger.info("%s cannot compute these features; using torch (%s)", name, error)
        return by_torch


def _openvino_computes(precision: torch.dtype) -> bool:
    return precision == torch.bfloat16 and find_spec("openvino") is not None and has_bfloat16()


def onnx_encode(encoder: nn.Module, image_size: int) -> Encode:
    """Export an encoder to ONNX Runtime, and compare its features with torch's.

    Args:
        encoder: On the CPU, in evaluation mode.
        image_size: S, the side of its images in pixels.

    Raises:
        ValueError: The features differ.
        Exception: Any error of the exporter or ONNX Runtime.
    """
    graph, pixels, expected = _trace(encoder, image_size)
    options = session_options(torch.get_num_threads())
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    difference = np.abs(_run(session, pixels) - expected).max() / np.abs(expected).max()
    return _checked(session, difference, TOLERANCE)


def openvino_encode(encoder: nn.Module, image_size: int) -> Encode:
    """Export an encoder to OpenVINO in bfloat16, and compare its features with torch's.

    Args and errors are those of `onnx_encode`.
    """
    graph, pixels, expected = _trace(encoder, image_size)
    session = load_graph(graph, torch.get_num_threads(), "bf16")
    difference = np.linalg.norm(_run(session, pixels) - expected) / np.linalg.norm(expected)
    return _checked(session, float(difference), TOLERANCE_BFLOAT16)


def _trace(encoder: nn.Module, image_size: int) -> tuple[bytes, Pixels, Pixels]:
    """Return an encoder's ONNX graph with its weights, two images, and their features by torch."""
    random = np.random.default_rng(0)
    pixels = random.normal(size=(2, 3, image_size, image_size)).astype(np.float32)
    inputs = torch.from_numpy(pixels)
    with torch.autocast("cpu", enabled=False):
        graph = trace(encoder, (inputs,), ["pixels"], ["features"], ({0: "B"},))
        with torch.inference_mode():
            expected = encoder(inputs).numpy()
    return graph.SerializeToString(), pixels, expected


def _run(session: Session, pixels: Pixels) -> Pixels:
    features: Pixels = session.run(["features"], {"pixels": pixels})[0]
    return features


def _checked(session: Session, difference: float, tolerance: float) -> Encode:
    """Return a session as a function; `ValueError` if its features differ from torch's."""
    if not difference <= tolerance:
        raise ValueError(f"its features differ by {difference:.1e}")

    def encode(pixels: Tensor) -> NDArray[np.float16]:
        images = pixels.flatten(0, -4)  # of clips, their frames one by one
        parts = [
            _run(session, part.numpy())
            for part in (images[start : start + 4] for start in range(0, len(images), 4))
        ]
        features = np.concatenate(parts).astype(np.float16)
        return features.reshape(len(pixels), -1, features.shape[2])

    return encode
