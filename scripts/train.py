"""Train a captioner: python scripts/train.py --config configs/tiny.yaml [--dotted.key=value ...] [--ckpt_path last]."""

import os
import sys

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch on huge pages: up to twice the speed on a CPU

from captioner.errors import MissingExtraError

try:
    from captioner.training.train import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {MissingExtraError('Training', 'train')} ({error})")
except KeyboardInterrupt:  # torch takes seconds
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
