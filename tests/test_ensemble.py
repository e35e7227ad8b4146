"""Ensembles of several models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner.backends.ensemble import EnsembleStepper
from captioner.backends.torch import TorchStepper
from captioner.checkpoint import BUNDLED
from captioner.cli import main
from captioner.errors import ConfigError
from captioner.inference import Captioner
from captioner.vocabulary import START
from tests.model.decoders import make_decoder, make_features


@pytest.fixture(scope="module")
def pictures(picture):
    return [picture(number) for number in range(12)]


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_of_equal_models_it_is_the_model(checkpoint_folder, captioner, pictures, backend):
    together = Captioner.from_pretrained([checkpoint_folder] * 3, backend=backend)
    options = {"beam_size": 4, "alternatives": 3}
    for one, other in zip(
        captioner.caption(pictures, **options), together.caption(pictures, **options), strict=True
    ):
        assert [each.text for each in one.alternatives] == [
            each.text for each in other.alternatives
        ]
        assert one.word_log_probs == pytest.approx(other.word_log_probs, abs=1e-4)
        np.testing.assert_allclose(one.attention, other.attention, atol=1e-4)


def make_stepper(name, scale):
    decoder = make_decoder(name)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(scale)
        image, state = decoder.prepare(make_features())
    return TorchStepper(decoder, image, state, len(make_features()))


def test_a_word_has_the_mean_of_its_probabilities_also_after_images_and_beams_are_gone():
    members = [("show_attend_tell", 1.0), ("up_down", 0.9), ("show_attend_tell", 0.7)]
    together = EnsembleStepper([make_stepper(*member) for member in members])
    alone = [make_stepper(*member) for member in members]
    parents, words = np.arange(4)[:, None], np.full((4, 1), START)
    for k in (3, 3, 5):
        step = together.step(parents, words, k, all_log_probs=True)
        each = [stepper.step(parents, words, 1, all_log_probs=True) for stepper in alone]
        expected = np.mean([np.exp(one.all_log_probs) for one in each], axis=0)
        np.testing.assert_allclose(np.exp(step.all_log_probs), expected, atol=1e-6)
        np.testing.assert_allclose(
            step.attention, np.mean([one.attention for one in each], axis=0), atol=1e-6
        )
        best = np.argsort(-expected, axis=2)[:, :, :k]
        assert step.words.tolist() == best.tolist()
        np.testing.assert_allclose(
            np.exp(step.log_probs), np.take_along_axis(expected, best, axis=2), atol=1e-6
        )
        rows = np.arange(parents.size).reshape(parents.shape)
        parents = np.concatenate(
            [rows[1:, -1:], rows[1:, :1], rows[1:, :1]], axis=1
        )  # the first image is done
        words = step.words[1:, 0, [0, 1, 2]]


def test_maps_of_different_grids_are_not_mixed():
    steppers = [make_stepper("show_attend_tell", 1.0), make_stepper("show_tell", 1.0)]
    step = EnsembleStepper(steppers).step(np.arange(4)[:, None], np.full((4, 1), START), 2)
    assert step.attention is None


@pytest.mark.parametrize("what", ["preprocessing", "vocabulary"])
def test_models_that_mean_different_things_are_refused(checkpoint_folder, tmp_path, what):
    other = tmp_path / "other"
    shutil.copytree(checkpoint_folder, other)
    if what == "vocabulary":
        words = json.loads((other / "vocabulary.json").read_text())
        words[-1] += "x"
        (other / "vocabulary.json").write_text(json.dumps(words))
    else:
        config = json.loads((other / "config.json").read_text())
        config["preprocessing"]["mean"] = [0.1, 0.2, 0.3]
        (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"differ in their {what}"):
        Captioner.from_pretrained([checkpoint_folder, other])


def test_no_model_at_all_is_refused():
    with pytest.raises(ConfigError, match="expected one or more"):
        Captioner.from_pretrained([])


def test_the_command_takes_several(checkpoint_folder, capsys):
    photo = str(Path(__file__).parents[1] / "examples" / "cat.jpg")
    assert main(["caption", photo, "--model", str(checkpoint_folder)]) == 0
    alone = capsys.readouterr().out
    assert main(["caption", photo, *(["--model", str(checkpoint_folder)] * 2)]) == 0
    assert capsys.readouterr().out == alone
    assert main(["caption", photo, "--model", str(checkpoint_folder), "--model", str(BUNDLED)]) == 2
    assert "differ in their" in capsys.readouterr().err


def test_the_bundled_model_has_a_name(tmp_path, monkeypatch, capsys):
    photo = str(Path(__file__).parents[1] / "examples" / "cat.jpg")
    shutil.copytree(BUNDLED, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()
    for models in ([], ["bundled"], ["copy"]):  # the same model, so each call resumes the last
        options = [option for model in models for option in ("--model", model)]
        assert main(["caption", photo, *options, "--output", "captions.tsv"]) == 0
    capsys.readouterr()
    assert main(["caption", photo, "--model", "bundled", "--model", "copy"]) == 0
    assert capsys.readouterr().out == Path("captions.tsv").read_text()
    assert main(["caption", photo, "--model", "./bundled"]) == 2
    assert "config.json" in capsys.readouterr().err
