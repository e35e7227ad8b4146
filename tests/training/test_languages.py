"""A model learns to say what its captions say, in a script without spaces too."""

import csv
import json
import re
from pathlib import Path

import pytest

from captioner.training.train import main
from tests.training.domains import OLD, draw_domain
from tests.training.runs import QUICK, TINY

COLORS = {"red": "红", "green": "绿", "blue": "蓝", "yellow": "黄"}
SHAPES = {"circle": "圆圈", "square": "方块", "triangle": "三角"}
SENTENCE = re.compile(
    f"一个({'|'.join(COLORS.values())})色的({'|'.join(SHAPES.values())})在灰色的墙上"
)


def translate(table: Path) -> dict[str, str]:
    """Put a table's captions into Chinese; what is said of each image."""
    with table.open(newline="") as file:
        things = {
            row["image"]: re.findall("|".join([*COLORS, *SHAPES]), row["caption"])
            for row in csv.DictReader(file)
        }
    said = {
        image: f"一个{COLORS[color]}色的{SHAPES[shape]}在灰色的墙上。"
        for image, (color, shape) in things.items()
    }
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        rows.writerows(said.items())
    return said


@pytest.mark.slow
def test_a_model_that_is_trained_on_chinese_captions_writes_chinese(tmp_path):
    train = draw_domain(tmp_path / "train", OLD, 96)
    val = draw_domain(tmp_path / "val", OLD, 24, seed=1)
    translate(train)
    said = translate(val)
    options = [
        f"--config={TINY}",
        *QUICK,
        "--data.draw_shapes=0",
        f"--data.train={train}",
        f"--data.val={val}",
    ]
    options += [
        "--data.train_images=null",
        "--data.preprocessing.size=64",
        f"--data.cache_folder={tmp_path}",
    ]
    options += [
        "--model.decoder.hidden_size=64",
        "--model.learning_rate=1e-2",
        "--model.warmup_steps=10",
    ]
    options += ["--model.decoding={beam_size: 1, max_length: 20}", "--trainer.max_epochs=8"]
    assert main([*options, "--trainer.check_val_every_n_epoch=8"]) == 0
    captions = {
        each["image_id"]: each["caption"]
        for each in json.loads(Path("runs/tiny/validation.json").read_text())
    }
    assert len(captions) == 24
    assert all(SENTENCE.fullmatch(caption) for caption in captions.values()), captions
    right = sum(f"{captions[image]}。" == sentence for image, sentence in said.items())
    assert right >= 18
