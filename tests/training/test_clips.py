"""Training on clips: from a config to a folder that captions clips, and what it makes of order."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner import Captioner
from captioner.annotations.records import load_records
from captioner.data.dataset import Augmentation, as_input, load_pixels
from captioner.data.views import ImageViews
from captioner.datasets.clips import draw_clips, write_clip
from captioner.evaluation.captioning import Captioning
from captioner.evaluation.evaluate import evaluate
from captioner.model.encoder import Encoder
from captioner.preprocessing import Preprocessing
from captioner.training.feature_cache import cached_features
from captioner.training.train import main
from captioner.video.parts import read_frames
from tests.training.runs import QUICK, ROOT, SMALL_RESNET

pytest.importorskip("av")

TINY_VIDEO = ROOT / "configs" / "tiny_video.yaml"
VIDEO = ROOT / "configs" / "video.yaml"
SMALL = [
    *QUICK,
    "--trainer.logger=false",
    "--trainer.max_epochs=1",
    "--data.batch_size=4",
    "--data.preprocessing.size=64",
    f"--model.encoder.name={SMALL_RESNET}",
    "--model.weights=null",
    "--model.decoding={beam_size: 1, max_length: 8}",
]


@pytest.mark.slow
def test_a_run_on_clips_leaves_a_folder_that_captions_them(caplog: pytest.LogCaptureFixture):
    """Its features are cached at first, then some of the encoder trains, on pixels."""
    caplog.set_level(logging.INFO, "captioner")
    tuned = ["--model.finetune={stages: [layer4], from_epoch: 1}", "--trainer.max_epochs=2"]
    arguments = [f"--config={TINY_VIDEO}", "--data.draw_clips=10", *SMALL, *tuned]
    assert main(arguments) == 0, caplog.text

    best = Path("runs/tiny_video/best")
    card = (best / "README.md").read_text()
    assert "8 frames joined by attention" in card
    assert re.search(r"Trained on \d+ clips .* on \d+ validation clips", card, re.DOTALL)
    captioner = Captioner.from_pretrained(best)
    assert captioner.frames == 8
    records = load_records("data/clips/val.csv")
    captions = captioner.caption([record.path for record in records])
    validated = json.loads(Path("runs/tiny_video/validation.json").read_text())
    if "epoch 1" in card.lower():  # the last is the best
        assert [caption.text for caption in captions] == [row["caption"] for row in validated]
    frames = read_frames(records[0].clip, 8)
    alone = captioner.caption_clip(frames)
    assert alone.text == captions[0].text
    assert alone.log_prob == pytest.approx(captions[0].log_prob, abs=1e-4)
    evaluation = evaluate(
        "data/clips/val.csv", captioning=Captioning(model=best, batch_size=2), output="scores"
    )
    assert evaluation.captions == tuple(caption.text for caption in captions)

    again = ["--model.init_from=runs/tiny_video/best", "--trainer.default_root_dir=again"]
    assert main([f"--config={TINY_VIDEO}", *SMALL, *again, "--model.temporal.frames=3"]) == 0
    assert Captioner.from_pretrained("again/best").frames == 8, "as in the model it begins with"


def test_the_config_for_clips_of_ones_own():
    draw_clips(Path("data/own/clips"), 10)
    table = Path("data/own/clips/train.csv").read_text().splitlines()
    rows = [f"{row.split(',', 1)[0]},0.5,1.5,{row.split(',', 1)[1]}" for row in table[1:]]
    Path("data/own/clips.csv").write_text(
        "\n".join(["clip,start,end,caption", *rows]).replace("clips/0", "clips/clips/0")
    )
    small = [each for each in SMALL if "decoding" not in each]
    small += ["--data.min_count=1", "--data.workers=0"]
    assert main([f"--config={VIDEO}", "--data.train=data/own/clips.csv", *small]) == 0
    assert Captioner.from_pretrained("runs/video/best").frames == 16


def test_features_of_a_clip_are_those_of_its_frames(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("captioner.training.fast_encoder.WORTHWHILE", 1)  # as for many photos
    draw_clips(tmp_path / "clips", 5)
    records = load_records(tmp_path / "clips" / "train.csv")
    preprocessing = Preprocessing(size=32)
    calls = 0

    def load(views, keys):
        nonlocal calls
        for _, index in keys:
            calls += 1
            pixels = torch.from_numpy(views[0, index].image)[None]
            yield as_input(pixels, preprocessing), torch.tensor([index])

    views = ImageViews(records, preprocessing, frames=3)
    features = cached_features(tmp_path / "cache", encoder, views, load)
    for index, record in enumerate(records):
        frames = np.stack([preprocessing(frame) for frame in read_frames(record.clip, 3)])
        with torch.inference_mode():
            expected = encoder.eval()(torch.from_numpy(frames)).flatten(0, 1)  # (F * L, D)
        torch.testing.assert_close(
            torch.from_numpy(features[0, index]).float(), expected, atol=2e-3, rtol=2e-3
        )
    cached_features(tmp_path / "cache", encoder, views, load)
    assert calls == len(records), "they are there"
    cached_features(tmp_path / "cache", encoder, ImageViews(records, preprocessing, frames=2), load)
    assert calls == 2 * len(records), "other frames are not"


def test_all_frames_of_a_clip_are_varied_alike(tmp_path: Path):
    still = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    write_clip(tmp_path / "clip.mp4", [still] * 8)
    (tmp_path / "clips.csv").write_text("clip,caption\nclip.mp4,a noise\n")
    (record,) = load_records(tmp_path / "clips.csv")
    augmentation = Augmentation(crop=0.3, flip=True, color=0.5)
    plain = load_pixels(record, Preprocessing(size=32), 2).astype(int)
    assert plain.shape == (2, 32, 32, 3)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        varied = load_pixels(record, Preprocessing(size=32), 2, augmentation, rng).astype(int)
        assert np.abs(varied[0] - varied[1]).mean() < 5
        assert np.abs(varied[0] - plain[0]).mean() > 10


@pytest.mark.slow
def test_clips_are_learnt_in_their_order(capsys: pytest.CaptureFixture[str]):
    """The shipped config: without the order, or with one frame, what needs time falls to chance."""
    from scripts.compare_temporal import main as compare

    assert compare(["attention", "mean", *QUICK]) == 0
    *_, attention, mean = capsys.readouterr().out.strip().splitlines()
    ours, theirs = (
        [int(cell.strip(" %")) for cell in row.split("|")[2:-1]] for row in (attention, mean)
    )
    exact, forwards, _, shuffled, _, alone = ours
    assert exact >= 80
    assert forwards >= 95
    chance = 4 * 50 / np.sqrt(300)  # four standard errors of 300 throws of a coin, in per cent
    for share in (shuffled, alone, theirs[1], theirs[3], theirs[5]):
        assert abs(share - 50) < chance, ours + theirs
