"""An image captioner: a photo goes in, a sentence comes out.

    from captioner import Captioner

    captioner = Captioner.from_pretrained()
    for caption in captioner.caption(["dog.jpg", "beach.png"]):
        print(caption.text)

The names are loaded when they are first used, so that `import captioner` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from captioner._version import __version__

if TYPE_CHECKING:
    from captioner.errors import CaptionerError
    from captioner.inference import Caption, Captioner

__all__ = ["Caption", "Captioner", "CaptionerError", "__version__"]

_MODULES = {"Caption": "inference", "Captioner": "inference", "CaptionerError": "errors"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
