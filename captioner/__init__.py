"""An image captioner: a photo goes in, a sentence comes out.

    from captioner import Captioner

    captioner = Captioner.from_pretrained()
    for caption in captioner.caption(["dog.jpg", "beach.png"]):
        print(caption.text)

The names are loaded when they are first used, so that `import captioner` costs nothing.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from captioner._version import __version__

# Libraries read these on import. Without them, ONNX Runtime would contact a telemetry host, write a
# device id into the user's home, and keep a thread that crashes forked processes. Variables that
# are already set take precedence.
for _name, _value in {
    "ORT_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)

if not any(
    os.path.isdir(os.path.expanduser(f"~/{place}/matplotlib")) for place in (".config", ".cache")
):
    # Keep matplotlib from creating both folders; a user who has them keeps them.
    _temporary = os.environ.get("TMPDIR") or os.environ.get("TEMP") or "/tmp"
    _user = os.getuid() if hasattr(os, "getuid") else ""
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(_temporary, f"captioner-matplotlib-{_user}"))

if TYPE_CHECKING:
    from captioner.caption import Caption
    from captioner.errors import CaptionerError
    from captioner.inference import Captioner

__all__ = ["Caption", "Captioner", "CaptionerError", "__version__"]

_MODULES = {"Caption": "caption", "Captioner": "inference", "CaptionerError": "errors"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
