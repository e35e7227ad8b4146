"""A captioner on an encoder of one's own: it begins with its weights and names its classes."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from captioner import Captioner
from captioner.pretraining.train import main as pretrain
from captioner.training.train import main as train
from tests.pretraining.shapes import CLASSES, SMALL, draw_folder
from tests.training.runs import ON_TABLES


def test_a_captioner_takes_the_encoder_and_tags_with_its_classes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = draw_folder(Path("shapes"), each=12)
    options = ["--data.train=shapes", "--model.encoder=resnet20", "--trainer.max_epochs=6"]
    assert pretrain([*SMALL, *options]) == 0, caplog.text
    for split in ("train", "val"):
        Path(split).mkdir()
        with open(f"{split}/photos.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "caption"])
            rows.writerows(
                [str(path.resolve()), f"a white {path.parent.name}"]
                for path in sorted(folder.rglob("*.png"))
            )
    options = [
        "--model.encoder.name=resnet20",
        "--model.weights=run/encoder.safetensors",
        "--data.preprocessing.size=16",
        "--data.preprocessing.mean=[0.5,0.5,0.5]",
        "--data.min_count=1",
        "--trainer.default_root_dir=captioner",
    ]
    assert train([*ON_TABLES, *options]) == 0, caplog.text
    assert "Keeping the encoder's classifier for tags" in caplog.text
    assert "The weights run/encoder.safetensors were trained on images of 16" in caplog.text
    own, whole = load_file("run/encoder.safetensors"), load_file("captioner/best/model.safetensors")
    stem = "stem.0.weight"
    torch.testing.assert_close(
        whole[f"encoder.cnn.{stem}"].float(), own[stem], rtol=1e-3, atol=1e-3
    )
    config = json.loads(Path("captioner/best/config.json").read_text())
    assert config["tags"]["table"] == list(CLASSES)
    assert config["format_version"] == 3
    captioner = Captioner.from_pretrained("captioner/best", backend="torch")
    tags = captioner.tag(sorted(folder.rglob("*.png")), threshold=0.0, limit=3)
    assert {tag.noun for own in tags for tag in own} == set(CLASSES)
