"""Train a captioner: python scripts/train.py ... does what `captioner train ...` does."""

import sys

from captioner.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
