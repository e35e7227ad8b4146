"""Score a captioner: python scripts/evaluate.py ... does what `captioner evaluate ...` does."""

import sys

from captioner.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
