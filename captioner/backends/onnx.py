"""The search's `Stepper` on ONNX Runtime: what captions without torch."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from captioner.checkpoint import ONNX_PAIR
from captioner.decoding.search import Step
from captioner.errors import CheckpointError

Arrays = dict[str, NDArray[np.float32]]


class OnnxBackend:
    """Runs the ONNX pair of a checkpoint folder, on the CPU.

    Args:
        folder: The checkpoint folder.
        threads: Threads per operation; null takes one per core.

    Raises:
        CheckpointError: The pair is missing, damaged or foreign.
    """

    name = "onnx"

    def __init__(self, folder: str | os.PathLike[str], threads: int | None = None) -> None:
        encoder, decoder = (Path(folder) / name for name in ONNX_PAIR)
        self._encoder = _session(encoder, threads)
        self._decoder = _session(decoder, threads)
        outputs = [output.name for output in self._encoder.get_outputs()]
        expected = {"parents", "words", "k", *outputs}
        if _inputs(self._encoder) != {"pixels"} or _inputs(self._decoder) != expected:
            raise CheckpointError(f"{encoder} and {decoder.name} don't belong together. {_advice(encoder.parent)}")
        self._outputs = outputs

    def encode(self, pixels: NDArray[np.float32]) -> "OnnxStepper":
        """Encode preprocessed images (B, 3, S, S); a stepper over them."""
        arrays = dict(zip(self._outputs, self._encoder.run(self._outputs, {"pixels": pixels}), strict=True))
        image = {name: array for name, array in arrays.items() if name.startswith("image.")}
        state = {name: array for name, array in arrays.items() if name.startswith("state.")}
        return OnnxStepper(self._decoder, image, state, len(pixels))


class OnnxStepper:
    """One batch of encoded images, being decoded; see `captioner.decoding.search.Stepper`.

    Arrays go in and come out as NumPy's: ONNX Runtime uses their memory as it is, so keeping them on its side
    (`OrtValue`, IO binding) is no quicker.

    Args:
        decoder: The session of decoder.onnx, which also reorders the states by the parents.
        image: The arrays that all rows of an image share, (B, ...) each, named "image.*".
        state: The first state, (B, H) each, named "state.*".
        batch_size: B.
    """

    def __init__(self, decoder: onnxruntime.InferenceSession, image: Arrays, state: Arrays, batch_size: int) -> None:
        self.batch_size = batch_size
        self._decoder = decoder
        self._image = image
        self._state = state
        self._grid = (batch_size, 1)  # (B, K) of the last step, whose rows `_state` has
        self._attends = any(output.name == "attention" for output in decoder.get_outputs())

    def step(
        self, parents: NDArray[np.int64], words: NDArray[np.int64], k: int, *, all_log_probs: bool = False
    ) -> Step:
        """Continue the rows `parents` (B, K) of the previous step by `words` (B, K); see `Stepper.step`."""
        images, beams = self._grid
        if len(parents) < images:
            going = parents[:, 0] // beams
            self._image = {name: array[going] for name, array in self._image.items()}
        self._grid = parents.shape
        feeds = {**self._image, **self._state, "parents": parents, "words": words, "k": np.array([k])}
        wanted = ["top_words", "top_log_probs", *(f"{name}.next" for name in self._state)]
        wanted += ["attention"] * self._attends + ["log_probs"] * all_log_probs
        outputs: dict[str, NDArray[Any]] = dict(zip(wanted, self._decoder.run(wanted, feeds), strict=True))
        self._state = {name: outputs[f"{name}.next"] for name in self._state}  # (B * K, H) each
        return Step(
            words=outputs["top_words"],
            log_probs=outputs["top_log_probs"],
            attention=outputs.get("attention"),
            all_log_probs=outputs.get("log_probs"),
        )


def _session(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. {_advice(path.parent)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and said by us
    options.intra_op_num_threads = threads or 0
    # Threads that wait by spinning gain little on an idle machine, and on a busy one they double the time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        raise CheckpointError(f"{path} cannot be loaded: {_short(error)}. {_advice(path.parent)}") from error


def _inputs(session: onnxruntime.InferenceSession) -> set[str]:
    return {entry.name for entry in session.get_inputs()}


def _advice(folder: Path) -> str:
    return f"Write the pair anew from the weights: captioner export {folder}"


def _short(error: Exception, length: int = 200) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= length else f"{text[:length]}..."
