"""scripts/probe_encoder.py: its measure against scikit-learn's, and drawn photos."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from captioner.preprocessing import Preprocessing
from scripts.probe_encoder import build, main, mean_average_precision, probe


def test_the_measure_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(40, 5)).astype(np.float32), random.random((40, 5)) < 0.3
    labels[:, 4] = False  # of which there is nothing to tell
    expected = [average_precision_score(labels[:, word], scores[:, word]) for word in range(4)]
    assert mean_average_precision(scores, labels) == pytest.approx(np.mean(expected))


def test_what_features_say_linearly_is_found_and_noise_is_not() -> None:
    torch.manual_seed(0)
    features = torch.randn(300, 8)
    labels = (features[:, :2] > 0.5).numpy()
    found = probe(features[:200], labels[:200], features[200:])
    assert mean_average_precision(found, labels[200:]) > 0.95
    found = probe(torch.randn(200, 8), labels[:200], torch.randn(100, 8))
    assert mean_average_precision(found, labels[200:]) < 0.6


def test_pixels_are_normalized_as_given() -> None:
    found = build("plain_cnn", None, size=16, mean=0.0, std=0.5)[1]
    assert found == Preprocessing(size=16, mean=(0.0,) * 3, std=(0.5,) * 3)
    assert build("plain_cnn", None, size=16)[1] == Preprocessing(size=16)


def test_the_script_probes_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 12), ("val", 6)):
        images, captions = [], []
        for number in range(count):
            colour, thing = (("red", "dog"), ("blue", "cat"))[number % 2]
            Image.new("RGB", (32, 32), colour).save(tmp_path / f"{split}{number}.png")
            images.append({"id": number, "file_name": f"{split}{number}.png"})
            captions.append({"id": number, "image_id": number, "caption": f"a {thing} sits"})
        content = {"images": images, "annotations": captions}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    call = [str(tmp_path / "train.json"), str(tmp_path / "val.json"), "--images", str(tmp_path)]
    call += ["--encoder", "plain_cnn", "--size", "16"]
    assert main(call) == 0
    assert "nouns 100.0 [100.0, 100.0]" in capsys.readouterr().out
    assert main([*call, "--std", "0"]) == 2
    assert "preprocessing.std is (0.0, 0.0, 0.0)" in capsys.readouterr().err
    assert main([*call, "--weights", "gone.pth"]) == 2
    assert "gone.pth: no such file" in capsys.readouterr().err


def test_annotations_that_name_nothing_known_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{number}.png")
    tables = {
        "dogs": "image,caption\n0.png,a dog\n1.png,a dog\n",
        "one": "image,caption\n0.png,a dog\n",
        "german": "image,caption\n0.png,ein Hund\n1.png,ein Hund\n",
    }
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    expected = {
        ("german", "dogs"): "No noun of the tags is named",
        ("dogs", "german"): "No noun of the tags is named",
        ("one", "dogs"): "expected two or more",
    }
    for (train, val), said in expected.items():
        call = [str(tmp_path / f"{name}.csv") for name in (train, val)]
        assert main([*call, "--encoder", "plain_cnn", "--size", "16"]) == 2
        assert said in capsys.readouterr().err
