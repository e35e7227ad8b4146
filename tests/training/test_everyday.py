"""The bundled model's config: two sources, three styles, two validation sets, fine-tuning."""

from pathlib import Path

import numpy as np
import pytest
import torch

from captioner import Captioner
from captioner.datasets.shapes import draw_shapes
from captioner.model.networks import build_network
from captioner.training.train import main
from tests.training.runs import QUICK, ROOT, SMALL_EFFICIENTNET


@pytest.mark.parametrize(
    ("encoder", "changes"),
    [
        pytest.param("timm/tf_efficientnet_lite0", SMALL_EFFICIENTNET, id="a small encoder"),
        pytest.param(
            "timm/tf_efficientnet_lite3",
            ["--checkpoint.onnx=true"],
            marks=pytest.mark.slow,
            id="as shipped",
        ),
    ],
)
def test_the_everyday_config_runs_through_both_stages(encoder, changes):
    torch.save(build_network(encoder, 64).state_dict(), "weights.pth")  # with a classifier
    for name in ("everyday", "flickr8k"):
        draw_shapes(Path("data") / name, 24)
    options = [
        f"--config={ROOT / 'configs' / 'everyday.yaml'}",
        *QUICK,
        "--model.weights=weights.pth",
        *changes,
    ]
    options += [
        "--data.preprocessing.size=64",
        "--data.batch_size=8",
        "--data.workers=0",
        "--trainer.max_epochs=2",
    ]
    options += ["--model.finetune.from_epoch=1", "--model.decoder.hidden_size=64"]
    assert main(options) == 0

    run = Path("runs/everyday")
    log = (run / "train.log").read_text()
    assert "Epoch 1: the encoder's blocks.5" in log
    assert {path.name for path in run.glob("validation_*.json")} == {
        "validation_everyday.json",
        "validation_flickr8k.json",
    }
    captioner = Captioner.from_pretrained(run / "best")
    assert captioner.vocabulary.styles == ("detailed", "flickr8k")
    assert "goldfish" in captioner.vocabulary, "which the decoder may point to"
    photo = np.zeros((64, 64, 3), np.uint8)
    assert all(
        captioner.caption(photo, style=style)[0].text for style in ("", "detailed", "flickr8k")
    )
