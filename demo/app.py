"""Serve the demo: python demo/app.py ... does what `captioner demo ...` does."""

import sys

from captioner.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
