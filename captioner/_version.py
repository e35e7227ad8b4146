"""The version, read from here by packaging and by `captioner.__version__`."""

__version__ = "0.2.0"
