"""Run a frozen encoder, or its frozen stages, with the fastest engine.

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

Pixels = NDArray[np.float32]

Engine = Callable[[Tensor], NDArray[np.float32]]
"""Images (..., 3, S, S), on the CPU -> what the encoder gives, (N, L, D) for N images in all."""

Encode = Callable[[Tensor], NDArray[np.float16]]
"""The same, rounded for the cache."""

WORTHWHILE = 500  # images; exporting takes as long as encoding some hundreds
TOLERANCE = 1e-3  # maximum difference between engines, relative to the largest feature
TOLERANCE_BFLOAT16 = 0.2  # norm of the difference from float32, relative to that of the features


def fastest_encode(encoder: nn.Module, image_size: int, n_images: int) -> Encode:
    """Find the fastest way to encode images with a frozen encoder in evaluation mode.

    Args:
        encoder: Pixels (N, 3, S, S) -> features (N, L, D).
        image_size: S.
        n_images: The number of images to encode; each frame of a clip is one.
    """
    device = next(encoder.parameters()).device
    engine = find_engine(encoder, image_size, n_images)

    def encode(pixels: Tensor) -> NDArray[np.float16]:
        if engine is not None:
            return engine(pixels).astype(np.float16)
        with torch.inference_mode():
            features: NDArray[np.float16] = (
                encoder(pixels.flatten(0, -4).to(device)).half().cpu().numpy()
            )
        return features

    return encode


def find_engine(encoder: nn.Module, image_size: int, n_images: int) -> Engine | None:
    """Find an engine that encodes images faster than torch; None if there is none.

    Args:
        encoder: A frozen encoder in evaluation mode, or its first stages: pixels (N, 3, S, S) ->
            one tensor of N rows.
        image_size: S.
        n_images: The number of images to encode; each frame of a clip is one.
    """
    if n_images < WORTHWHILE or next(encoder.parameters()).device.type != "cpu":
        return None
    name, find = "ONNX Runtime", onnx_encode
    if torch.is_autocast_enabled("cpu"):
        if not _openvino_computes(torch.get_autocast_dtype("cpu")):
            return None
        name, find = "OpenVINO", openvino_encode
    try:
        return find(encoder, image_size)
    except Exception as error:  # torch supports whatever the exporter or the engine doesn't
        logger.info("%s cannot compute these features; using torch (%s)", name, error)
        return None


def _openvino_computes(precision: torch.dtype) -> bool:
    return precision == torch.bfloat16 and find_spec("openvino") is not None and has_bfloat16()


def onnx_encode(encoder: nn.Module, image_size: int) -> Engine:
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


def openvino_encode(encoder: nn.Module, image_size: int) -> Engine:
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


def _checked(session: Session, difference: float, tolerance: float) -> Engine:
    """Return a session as a function; `ValueError` if its features differ from torch's."""
    if not difference <= tolerance:
        raise ValueError(f"its features differ by {difference:.1e}")

    def encode(pixels: Tensor) -> NDArray[np.float32]:
        images = pixels.flatten(0, -4).float().contiguous().numpy()
        return np.concatenate(
            [_run(session, images[start : start + 4]) for start in range(0, len(images), 4)]
        )

    return encode
