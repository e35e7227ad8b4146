"""The available backends, and the choice of one for a checkpoint."""

from importlib import import_module
from typing import TYPE_CHECKING

from captioner.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from captioner.backends.protocol import Backend, BackendType
    from captioner.checkpoint import Checkpoint

BACKENDS: dict[str, tuple[str, str | None]] = {
    "openvino": ("captioner.backends.openvino:OpenVinoBackend", "openvino"),
    "onnx": ("captioner.backends.onnx:OnnxBackend", None),
    "torch": ("captioner.backends.torch:TorchBackend", "train"),
}
"""Each backend's class as "module:class", and its extra; "auto" uses the first suitable one."""


def load_backend(
    checkpoint: "Checkpoint", name: str = "auto", device: str | None = None
) -> "Backend":
    """Load a checkpoint's network.

    Args:
        checkpoint: The checkpoint.
        name: One of `BACKENDS`, or "auto" for the first one that is suitable for the checkpoint and
            the device.
        device: "cpu", "cuda", "cuda:1", ...; None is the CPU.

    Raises:
        CheckpointError: The folder is damaged, or lacks files that the backend requires.
        ConfigError: The backend is unknown, or cannot use the device.
        MissingExtraError: The backend's package is not installed.
    """
    check_backend(name)
    if name != "auto":
        return find_backend(name).from_checkpoint(checkpoint, device)
    *others, last = BACKENDS
    for other in others:
        backend = find_backend(other)
        if backend.suits(checkpoint, device):
            return backend.from_checkpoint(checkpoint, device)
    return find_backend(last).from_checkpoint(checkpoint, device)


def check_backend(name: str) -> None:
    """Check that a backend exists.

    Raises:
        ConfigError: The backend is unknown.
    """
    if name not in ("auto", *BACKENDS):
        raise ConfigError(
            f"backend is {name!r}; expected one of: {', '.join(('auto', *BACKENDS))}."
        )


def find_backend(name: str) -> "BackendType":
    """Import a backend's class lazily, so that the help doesn't load its library.

    Raises:
        MissingExtraError: The backend's package is not installed.
    """
    place, extra = BACKENDS[name]
    module, _, attribute = place.partition(":")
    try:
        found: BackendType = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        raise MissingExtraError(f"The {name} backend", extra) from error
    return found
