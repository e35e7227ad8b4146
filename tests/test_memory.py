"""The memory use of captioning, in a separate process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CAPTION = """
import sys
from captioner import Captioner

photo = sys.argv[1]
assert len(Captioner.from_pretrained().caption([photo] * 40)) == 40
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
def test_photos_of_12_megapixels_caption_within_400_mb(tmp_path: Path) -> None:
    blobs = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(blobs).resize((4000, 3000), Image.Resampling.BICUBIC).save(path, quality=92)
    call = [sys.executable, "-c", CAPTION, str(path)]
    result = subprocess.run(call, check=True, capture_output=True, text=True)
    assert int(result.stdout) / 1024 < 400
