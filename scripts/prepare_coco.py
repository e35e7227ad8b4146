"""Download COCO: python scripts/prepare_coco.py ... does what `captioner prepare-coco ...` does."""

import sys

from captioner.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare-coco", *sys.argv[1:]]))
