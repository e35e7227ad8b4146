"""The COCO configs, unchanged except sizes, on a folder as scripts/prepare_coco.py leaves it."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from captioner import Captioner
from captioner.annotations.records import load_records
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.training.train import main
from tests.coco import draw_coco
from tests.training.runs import QUICK, ROOT, SMALL_RESNET

SIZES = [
    *QUICK,
    "--model.weights=null",  # they would be downloaded
    "--data.preprocessing.size=64",
    "--data.min_count=1",
    "--data.batch_size=5",
    "--data.workers=1",
    *(
        f"--model.decoder.{width}_size=32"
        for width in ("hidden", "embedding", "context", "attention")
    ),
    "--model.finetune.from_epoch=1",
    "--trainer.max_epochs=2",
]
SMALL_ENCODER = [f"--model.encoder.name={SMALL_RESNET}"]
CONFIGS = ["coco.yaml", "coco_small.yaml"]


@pytest.mark.parametrize(
    ("config", "encoder"),
    [
        *((config, SMALL_ENCODER) for config in CONFIGS),
        *(
            pytest.param(config, [], marks=pytest.mark.slow, id=f"{config}-as shipped")
            for config in CONFIGS
        ),
    ],
)
def test_a_coco_config_runs_through_both_of_its_stages(config, encoder, caplog):
    draw_coco(Path("data/coco"), train=12, val=4, test=2, restval=3)
    assert main([f"--config={ROOT / 'configs' / config}", *SIZES, *encoder]) == 0

    run = Path("runs") / Path(config).stem
    log = (run / "train.log").read_text()
    assert "Epoch 1: the encoder's layer3, layer4 train too" in log
    assert "15 images, 75 captions" in log, "restval is training data"
    val = load_records("data/coco/dataset_coco.json", split="val")
    captioned = {entry["image_id"] for entry in json.loads((run / "validation.json").read_text())}
    assert captioned == {record.image_id for record in val}
    assert len(Captioner.from_pretrained(run / "best", backend="torch").caption([val[0].path])) == 1

    if config == "coco.yaml":
        options = [f"--config={ROOT / 'configs' / 'coco_scst.yaml'}", *SIZES, *encoder]
        assert main([*options, "--trainer.max_epochs=1"]) == 0
        assert "Continuing from runs/coco/best" in caplog.text


@pytest.mark.parametrize("config", CONFIGS)
def test_the_encoder_that_a_config_names_has_the_stages_that_it_trains(config):
    settings = yaml.safe_load((ROOT / "configs" / config).read_text())
    with torch.device("meta"):  # nothing is computed
        encoder = Encoder(
            EncoderConfig(**settings["model"]["encoder"]), settings["data"]["preprocessing"]["size"]
        )
    encoder.unfreeze(settings["model"]["finetune"]["stages"])
    assert not encoder.frozen
    assert next(encoder.cnn.layer4.parameters()).requires_grad


@pytest.mark.slow
def test_the_official_files_of_2017_do_as_well():
    draw_coco(Path("data/coco"), year=2017)
    data = [
        f"--data.{split}=data/coco/annotations/captions_{split}2017.json"
        for split in ("train", "val")
    ]
    options = [*SIZES, *SMALL_ENCODER, *data, "--data.train_images=null", "--trainer.max_epochs=1"]
    assert main([f"--config={ROOT / 'configs' / 'coco_small.yaml'}", *options]) == 0
