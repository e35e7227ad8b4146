"""Training runs: what they write, that they learn, stop, resume and refuse."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback

from captioner import Captioner
from captioner.annotations.records import load_records
from captioner.checkpoint import read_checkpoint
from captioner.model.decoder import DECODERS
from captioner.training.train import main
from tests.training.runs import (
    FLICKR8K,
    QUICK,
    SMALL,
    SMALL_EFFICIENTNET,
    TINY,
    train_with,
    weights,
)


def test_a_run_leaves_its_config_its_log_and_a_folder_that_captions_on_both_backends():
    encoder = ["--model.encoder.name=plain_cnn", "--model.encoder.grid=2"]  # exported fastest
    assert main([f"--config={TINY}", *SMALL, *encoder, "--checkpoint.onnx=true"]) == 0

    run = Path("runs/tiny")
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["draw_shapes"] == 50
    assert re.search(r"Epoch 1: BLEU-1 [\d.]+  .*CIDEr-D [\d.]+", (run / "train.log").read_text())
    assert list(run.glob("events.out.tfevents.*")), "TensorBoard is the default logger"
    names = {path.name for path in (run / "best").iterdir()}
    assert names == {
        "config.json",
        "vocabulary.json",
        "model.safetensors",
        "encoder.onnx",
        "decoder.onnx",
        "README.md",
    }
    assert "40 images with 120 captions" in (run / "best" / "README.md").read_text()

    images = [
        record.path
        for record in load_records(
            Path("data/shapes/annotations/captions_val.json"), Path("data/shapes/images")
        )
    ]
    captions = Captioner.from_pretrained(run / "best").caption(images)
    for ours, theirs in zip(
        captions,
        Captioner.from_pretrained(run / "best", backend="torch").caption(images),
        strict=True,
    ):
        assert ours.text == theirs.text
        assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-4)


@pytest.mark.parametrize("null", [["--model.finetune", "null"], ["--model.finetune=null"]])
def test_a_section_of_a_config_is_switched_off_from_the_command_line(null):
    config = yaml.safe_load(TINY.read_text())
    config["model"]["finetune"] = {"stages": ["no such stage"], "from_epoch": 1}
    Path("tuned.yaml").write_text(yaml.safe_dump(config))
    off = [*null, "--data.augmentation", "null"]
    assert (
        main(
            [
                "--config=tuned.yaml",
                *SMALL,
                "--trainer.max_epochs=1",
                "--data.augmentation.crop=0.5",
                *off,
            ]
        )
        == 0
    )
    saved = yaml.safe_load(Path("runs/tiny/config.yaml").read_text())
    assert saved["model"]["finetune"]["stages"] == []
    augmentation = saved["data"]["augmentation"]
    assert augmentation.pop("corruptions")["share"] == 0
    assert augmentation == {"crop": 1.0, "flip": False, "color": 0.0}


@pytest.mark.usefixtures("finished_run")
def test_the_vocabulary_is_of_the_training_captions_alone():
    path = Path("data/shapes/annotations/captions_val.json")
    val = json.loads(path.read_text())
    val["annotations"][0]["caption"] = "an unheardof shape"
    path.write_text(json.dumps(val))
    assert (
        main(
            [
                f"--config={TINY}",
                *SMALL,
                "--trainer.max_epochs=1",
                "--trainer.default_root_dir=again",
            ]
        )
        == 0
    )
    assert "unheardof" not in read_checkpoint(Path("again/best")).vocabulary.words


@pytest.mark.usefixtures("finished_run")
def test_own_photos_from_a_csv_with_string_names():
    for split in ("train", "val"):
        with open(f"{split}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "caption"])
            for record in load_records(
                Path(f"data/shapes/annotations/captions_{split}.json"), Path("data/shapes/images")
            ):
                writer.writerows((record.path.resolve(), caption) for caption in record.captions)
    own = [
        "--data.draw_shapes=0",
        "--data.train=train.csv",
        "--data.val=val.csv",
        "--data.train_images=null",
    ]
    assert (
        main(
            [
                f"--config={TINY}",
                *SMALL,
                *own,
                "--trainer.max_epochs=1",
                "--trainer.default_root_dir=own",
            ]
        )
        == 0
    )
    assert torch.equal(
        *(weights(run)["network.decoder.embedding.weight"] for run in ("runs/tiny", "own"))
    )


@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [
        pytest.param("show_attend_tell", SMALL_EFFICIENTNET, id="a small encoder"),
        *(
            pytest.param(name, ["--checkpoint.onnx=true"], marks=pytest.mark.slow, id=name)
            for name in DECODERS
        ),
    ],
)
def test_the_flickr8k_configs_run_through_all_stages(decoder, encoder, caplog):
    """Cached features, then fine-tuning; bf16, averaged weights; only data and sizes changed."""
    options = [
        f"--config={FLICKR8K}",
        "--data.draw_shapes=40",
        "--data.batch_size=8",
        "--data.workers=0",
        *QUICK,
    ]
    options += [
        f"--data.{split}=data/shapes/annotations/captions_{split}.json"
        for split in ("train", "val")
    ]
    options += [
        "--data.train_images=data/shapes/images",
        "--data.preprocessing.size=64",
        "--data.cache_features=2",
    ]
    options += ["--model.weights=null", "--model.finetune.from_epoch=1", "--trainer.max_epochs=2"]
    options += [f"--model.decoder.name={decoder}", *encoder]
    if encoder is SMALL_EFFICIENTNET:
        options.append("--model.decoder.hidden_size=64")
    assert main(options) == 0

    assert main([*options, "--trainer.max_epochs=3", "--ckpt_path=last"]) == 0

    log = Path("runs/flickr8k/train.log").read_text()
    assert log.count("Computing the features of") == 2, (
        "of each split once, and not for a resumed encoder"
    )
    assert "Epoch 1: the encoder's blocks.5" in log
    captioner = Captioner.from_pretrained("runs/flickr8k/best")
    assert captioner.backend.name == ("torch" if encoder is SMALL_EFFICIENTNET else "onnx")
    assert len(captioner.caption([np.zeros((64, 64, 3), np.uint8)])) == 1

    options[0] = f"--config={FLICKR8K.with_name('flickr8k_scst.yaml')}"
    assert main([*options, "--trainer.max_epochs=1"]) == 0
    assert "Continuing from runs/flickr8k/best" in caplog.text

    shutil.copytree("runs/flickr8k", "runs/flickr8k_2")
    options[0] = f"--config={FLICKR8K.with_name('flickr8k_distilled.yaml')}"
    assert main([*options, "--trainer.max_epochs=1", "--model.weights=runs/flickr8k/best"]) == 0
    assert "Teachers: runs/flickr8k/best, runs/flickr8k_2/best" in caplog.text


def test_overfitted_batches_train_the_encoder_despite_cached_features():
    options = [f"--config={TINY}", *SMALL, "--trainer.logger=false", "--trainer.overfit_batches=1"]
    options.append("--model.finetune={stages: [blocks.4], from_epoch: 1, learning_rate: 1e-2}")
    after = []
    for epochs in (1, 2):
        run = [f"--trainer.max_epochs={epochs}", f"--trainer.default_root_dir=runs/{epochs}"]
        assert main([*options, *run]) == 0
        after.append(weights(f"runs/{epochs}"))
    changed = [name for name in after[0] if not torch.equal(after[0][name], after[1][name])]
    assert any("encoder" in name and "blocks.4" in name for name in changed)


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--model.decoder.hidden_sise=5", "hidden_sise"),
        ("--model.learning_rate=fast", "learning_rate"),
        ("--data.augmentation.crop=big", "augmentation.crop"),
        ("--model.decoding.beam_size=big", "beam_size"),
    ],
)
def test_an_unknown_or_mistyped_key_is_refused_with_its_location(argument, named, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([f"--config={TINY}", argument])
    assert exit_.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.encoder.name=resnet19"], "resnet19"),
        (
            ["--model.decoder.name=transformer"],
            "decoder.name is 'transformer'; expected one of: show_tell",
        ),
        (["--model.finetune.stages=[layer9]"], "layer9"),
        (["--model.weights=missing.safetensors"], "missing.safetensors"),
        (["--data.draw_shapes=0"], "captions_train.json"),
        (["--data.min_count=0"], "min_count"),
        (["--model.decoding.beam_size=0"], "beam_size"),
        (["--model.decoding.include=[cat]"], "none in a model's defaults"),
        (["--model.coverage_penalty=-1"], "coverage_penalty is -1.0; expected 0 or more"),
        (["--trainer.accumulate_grad_batches=0"], "accumulate_grad_batches is 0; expected 1"),
        (["--trainer.max_epochs=0"], "max_epochs is 0, so nothing would be trained"),
        (["--trainer.strategy=none"], "invalid strategy name"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, said, caplog):
    assert main([f"--config={TINY}", *SMALL, *arguments]) == 2
    assert said in caplog.records[-1].message
    assert not Path("runs").exists()


class Shares(Callback):
    """Keeps the decoder's share of sampled input words of each step."""

    def __init__(self):
        self.seen = []

    def setup(self, trainer, pl_module, stage):
        pl_module.network.decoder.register_forward_pre_hook(
            lambda decoder, inputs: self.seen.append(inputs[2])
        )


@pytest.mark.parametrize(
    "length",
    [
        ["--trainer.max_epochs=3"],
        ["--trainer.max_epochs=-1", "--trainer.max_steps=12"],
        [
            "--trainer.max_epochs=100",
            "--trainer.max_steps=7",
            "--trainer.accumulate_grad_batches=2",
        ],
    ],
)
def test_sampled_words_reach_their_share_in_the_last_epoch_however_a_run_ends(length):
    shares = Shares()
    options = [
        f"--config={TINY}",
        *SMALL,
        "--trainer.limit_val_batches=0",
        "--trainer.logger=false",
    ]
    assert train_with(shares, [*options, "--model.scheduled_sampling=0.3", *length]) == 0
    expected = [0.0] * 5 + [0.15] * 5 + [0.3] * 5  # five batches an epoch
    assert shares.seen == pytest.approx(expected[: len(shares.seen)])
    assert len(shares.seen) > 10


@pytest.mark.usefixtures("finished_run")
def test_two_runs_do_not_mix_in_one_folder(caplog):
    saved = Path("runs/tiny/checkpoints/last.ckpt").read_bytes()
    assert main([f"--config={TINY}", *SMALL, "--trainer.max_epochs=1"]) == 2
    assert "--ckpt_path last" in caplog.records[-1].message
    assert Path("runs/tiny/checkpoints/last.ckpt").read_bytes() == saved


@pytest.mark.usefixtures("finished_run")
def test_resuming_with_other_words_is_refused(caplog):
    assert main([f"--config={TINY}", *SMALL, "--data.min_count=30", "--ckpt_path=last"]) == 2
    assert "vocabulary" in caplog.records[-1].message


def test_print_config_prints_a_config_that_can_be_read_again(capsys):
    with pytest.raises(SystemExit):
        main([f"--config={TINY}", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["decoder"]["hidden_size"] == 128
    assert config["trainer"]["max_epochs"] == 16


@pytest.mark.slow
def test_the_tiny_config_learns_to_describe_held_out_shapes():
    assert main([f"--config={TINY}", *QUICK]) == 0
    records = load_records(
        Path("data/shapes/annotations/captions_val.json"), Path("data/shapes/images")
    )
    captions = Captioner.from_pretrained("runs/tiny/best").caption(
        [record.path for record in records]
    )
    right = [
        understood(caption.text) == understood(record.captions[0].lower())
        for record, caption in zip(records, captions, strict=True)
    ]
    assert sum(right) / len(right) > 0.85


def understood(caption: str) -> frozenset[tuple[str, str]]:
    """The relation in a caption: "a red circle above a blue square" equals its inverse."""
    first, place, second = re.search(
        r"a (\w+ \w+) (?:is )?(above|below|left|right)(?: of)? a (\w+ \w+)", caption
    ).groups()
    opposite = {"above": "below", "below": "above", "left": "right", "right": "left"}
    return frozenset({(first, place), (second, opposite[place])})
