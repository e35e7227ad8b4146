"""Bad data and numbers are reported, and stop the run or are skipped: never silently ignored."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file, save_file

from captioner.checkpoint import BUNDLED, read_checkpoint
from captioner.training.train import main
from tests.training.domains import OLD, draw_domain
from tests.training.runs import ON_TABLES, last_checkpoint, train_with

LAST = Path("runs/tiny/checkpoints/last.ckpt")


@pytest.fixture(autouse=True)
def _data(tmp_path):
    draw_domain(tmp_path / "train", OLD, 12)
    draw_domain(tmp_path / "val", OLD, 4, seed=1)


def damage(*numbers, split="train"):
    """Cut images short; their paths."""
    paths = [Path(split) / f"{number}.png" for number in numbers]
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])
    return paths


def refusal(caplog, *options):
    """What a run that must fail says at last: a line, without a traceback."""
    assert main([*ON_TABLES, *options]) == 2
    said = caplog.records[-1].message
    assert said.startswith("error: ") and "\n" not in said
    return said


# --- Images ---

both_ways = pytest.mark.parametrize(
    "loaded",
    [["--data.workers=1"], ["--data.cache_features=1"]],
    ids=["in a worker", "as features"],
)


@both_ways
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_damaged_image_is_named_and_fatal(split, loaded, caplog):
    (path,) = damage(2, split=split)
    said = refusal(caplog, *loaded)
    assert f"{path}: cannot be decoded" in said
    assert "data.unreadable=skip" in said
    assert not LAST.exists()


@both_ways
def test_damaged_images_are_named_once_and_left_out_if_asked(loaded, caplog):
    damaged = [*damage(2, 7), *damage(1, split="val")]
    assert main([*ON_TABLES, *loaded, "--data.unreadable=skip", "--trainer.max_epochs=2"]) == 0
    skipped = [
        record.message for record in caplog.records if record.message.startswith("Skipped: ")
    ]
    assert len(skipped) == 3
    for path in damaged:
        assert sum(f"{path}: " in sentence for sentence in skipped) == 1
    assert last_checkpoint("runs/tiny")["global_step"] == 2 * 12 // 4, (
        "others take their places, so steps stay whole"
    )


def test_missing_images_are_counted_and_fatal_or_named_and_left_out(caplog):
    for number in (3, 5):
        Path(f"train/{number}.png").unlink()
    said = refusal(caplog)
    assert "train/photos.csv: 2 of 12 images are missing, for example train/3.png" in said
    assert not Path("runs").exists()

    assert main([*ON_TABLES, "--data.unreadable=skip"]) == 0
    for number in (3, 5):
        assert f"Skipped: train/{number}.png: no such file" in caplog.text
    assert last_checkpoint("runs/tiny")["global_step"] == 10 // 4


@both_ways
@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("train", "train/photos.csv: none of its images can be read"),
        ("val", "None of the validation images can be read"),
    ],
)
def test_nothing_but_damaged_images_is_fatal_even_so(split, said, loaded, caplog):
    damaged = damage(*range(12 if split == "train" else 4), split=split)
    assert said in refusal(caplog, *loaded, "--data.unreadable=skip")
    assert any(f"Skipped: {path}" in caplog.text for path in damaged)


def test_nothing_but_missing_images_is_fatal_even_so(caplog):
    for path in Path("train").glob("*.png"):
        path.unlink()
    assert "12 of 12 images are missing, for example train/0.png" in refusal(
        caplog, "--data.unreadable=skip"
    )


# --- Captions ---

COCO = {
    "images": [{"id": 1, "file_name": "0.png"}, {"id": 2, "file_name": "1.png"}],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "a red circle"},
        {"id": 2, "image_id": 2, "caption": "one"},
    ],
}


def without_caption(text):
    return {
        **COCO,
        "annotations": [*COCO["annotations"], {"id": 3, "image_id": 2, "caption": text}],
    }


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.json", without_caption(" \n"), "a.json, annotations[2]: the caption is empty"),
        ("a.json", without_caption(None), 'a.json, annotations[2]: expected "caption", a string'),
        ("a.csv", 'image,caption\n0.png,a dog\n0.png,""\n', "a.csv, line 3: the caption is empty"),
        ("a.jsonl", '{"image": "0.png", "caption": ""}\n', "a.jsonl, line 1: the caption is empty"),
        (
            "a.json",
            {**COCO, "images": COCO["images"][:1]},
            'a.json, annotations[1]: image id 2 is not in "images"',
        ),
        ("a.json", json.dumps(COCO, indent=0)[:-20], "a.json, line 21: invalid JSON ("),
        ("a.json", "image,caption\n", "a.json, line 1: invalid JSON ("),
        (
            "a.jsonl",
            '{"image": "0.png", "caption": "x"}\n{"image"\n',
            "a.jsonl, line 2: invalid JSON (",
        ),
        (
            "a.json",
            {"images": [], "annotations": []},
            "a.json: no captions; expected at least one image",
        ),
        (
            "a.json",
            {**COCO, "annotations": []},
            "a.json: no captions; expected at least one image",
        ),
        ("a.csv", "image,caption\n", "a.csv: no captions; expected at least one image"),
        ("a.csv", "", "a.csv: no column 'image' and 'caption' in its first line"),
        ("a.csv", "image,caption\n0.png,a dog, wet\n", "a.csv, line 2: more values than columns"),
    ],
)
def test_a_caption_file_is_refused_in_a_sentence_that_says_where(name, content, where, caplog):
    path = Path("train") / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert f"train/{where}" in refusal(caplog, f"--data.train={path}")
    assert not Path("runs").exists()


def test_so_are_those_of_validation_and_of_earlier_data(caplog):
    Path("train/a.csv").write_text("image,caption\n0.png,\n")
    for option in ("--data.val", "--data.sources.earlier.annotations"):
        assert "train/a.csv, line 2: the caption is empty" in refusal(
            caplog, f"{option}=train/a.csv"
        )


def test_a_vocabulary_without_a_word_is_refused(caplog):
    assert "No word occurs 1000 times in the training captions" in refusal(
        caplog, "--data.min_count=1000"
    )


def test_a_source_without_annotations_is_named(caplog):
    refusal(caplog, "--data.min_count=1000", "--data.sources.erlier.weight=2")
    assert "Left out, as they have no annotations: data.sources.erlier" in caplog.text


# --- Numbers ---


class Poison(Callback):
    """Set a gradient to NaN at a step: the loss was finite, and the next weights are not."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            next(pl_module.network.decoder.parameters()).grad[0, 0] = float("nan")


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(3, id="an epoch's first step"),
        pytest.param(4, id="in the middle of it", marks=pytest.mark.slow),
        pytest.param(5, id="its last step"),
    ],
)
def test_not_a_number_stops_the_run_and_is_never_saved(step, caplog):
    options = [*ON_TABLES, "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"]
    options += ["--trainer.max_epochs=2", "--checkpoint.every_minutes=0"]
    assert train_with(Poison(step), options) == 2
    said = caplog.records[-1].message
    assert f"at step {step + 1}. Lower model.learning_rate" in said
    for path in ("last", "best"):
        saved = torch.load(LAST.with_name(f"{path}.ckpt"), weights_only=True)
        assert saved["global_step"] <= step
        for key in ("state_dict", "current_model_state"):
            assert all(bool(torch.isfinite(tensor).all()) for tensor in saved[key].values())
    assert all(
        bool(torch.isfinite(tensor).all())
        for tensor in load_file("runs/tiny/best/model.safetensors").values()
    )
    assert main([*options, "--ckpt_path=last"]) == 0, "and the run can go on from there"


def test_a_loss_that_is_none_stops_the_run(caplog):
    said = refusal(caplog, "--model.learning_rate=1e30", "--trainer.gradient_clip_val=null")
    assert "at step 1. Lower model.learning_rate" in said
    assert not LAST.exists()


def test_a_checkpoint_with_weights_that_are_none_is_not_trained_on(caplog):
    shutil.copytree(BUNDLED, "broken")
    path = read_checkpoint("broken").weights
    state = load_file(path)
    state["decoder.project.weight"][3, 5] = float("nan")
    save_file(state, path)
    assert "Weights contain NaN or Inf at step 0" in refusal(caplog, "--model.init_from=broken")
