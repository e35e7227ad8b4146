"""What teachers say, and a model that learns it."""

import numpy as np
import pytest
import torch
from torch import nn

from captioner.backends.torch import TorchBackend
from captioner.checkpoint import read_checkpoint
from captioner.errors import ConfigError
from captioner.export import save_checkpoint
from captioner.model.encoder import Encoder, EncoderConfig
from captioner.preprocessing import Preprocessing
from captioner.training.distillation import DistillationConfig, Teachers, soft_cross_entropy
from captioner.training.train import main
from captioner.vocabulary import START, UNKNOWN, Vocabulary
from tests.model.decoders import CAPTIONS, make_decoder, make_features
from tests.training.runs import QUICK, SMALL_RESNET, TINY, train_with
from tests.training.test_self_critical import Watch


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return read_checkpoint(checkpoint_folder)


def test_they_say_what_the_search_would_be_told(checkpoint):
    """A caption's words, one after the other, through the stepper."""
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    words = [5, 9, 7]
    captions = torch.tensor([[[START, *words]]] * 2)
    teachers = Teachers([checkpoint.folder] * 2, checkpoint.vocabulary, checkpoint.preprocessing)
    said = teachers.probabilities(pixels, captions)  # ordered by step, then image
    stepper = TorchBackend.from_checkpoint(checkpoint).encode(pixels)
    parents = np.array([[0], [1]])
    for t, word in enumerate([START, *words[:-1]]):
        step = stepper.step(parents, np.full((2, 1), word), 1, all_log_probs=True)
        np.testing.assert_allclose(
            said[2 * t : 2 * t + 2], np.exp(step.all_log_probs[:, 0]), atol=1e-5
        )


def test_the_loss_is_cross_entropy_where_they_are_certain_and_still_where_they_agree():
    output = make_decoder("show_attend_tell")(make_features(), CAPTIONS)
    certain = nn.functional.one_hot(output.targets, output.logits.shape[1]).float()
    expected = nn.functional.cross_entropy(output.logits, output.targets)
    torch.testing.assert_close(soft_cross_entropy(output, certain).mean(), expected)

    logits = output.logits.detach().requires_grad_()
    soft_cross_entropy(
        output._replace(logits=logits), logits.detach().softmax(dim=1)
    ).mean().backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-7, rtol=0)


@pytest.mark.parametrize("what", ["words", "preprocessing"])
def test_one_that_knows_other_words_or_sees_differently_is_refused(checkpoint, what):
    vocabulary = (
        Vocabulary([*checkpoint.vocabulary.words[:-1], "new"])
        if what == "words"
        else checkpoint.vocabulary
    )
    preprocessing = Preprocessing(size=96) if what == "preprocessing" else checkpoint.preprocessing
    with pytest.raises(ConfigError, match="differs from the model"):
        Teachers([checkpoint.folder], vocabulary, preprocessing)


def test_one_that_lacks_the_newest_words_teaches_its_own(checkpoint):
    """The model has learnt words since: learning without forgetting."""
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    words = len(checkpoint.vocabulary)
    vocabulary = checkpoint.vocabulary.extended(["zorb"])
    teachers = Teachers([checkpoint.folder], vocabulary, checkpoint.preprocessing)
    captions = torch.tensor([[[START, 5, words, 7]]] * 2)
    said = teachers.probabilities(pixels, captions)
    assert said.shape == (6, words)
    unknown = captions.masked_fill(captions == words, UNKNOWN)
    torch.testing.assert_close(said, teachers.probabilities(pixels, unknown))
    torch.testing.assert_close(said.sum(dim=1), torch.ones(6))


def test_a_style_that_is_new_is_the_plain_one_to_a_teacher(checkpoint):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    vocabulary = checkpoint.vocabulary.extended(["zorb"]).with_styles(["formal"])
    teachers = Teachers([checkpoint.folder], vocabulary, checkpoint.preprocessing)
    said, plain = (
        teachers.probabilities(pixels, torch.tensor([[[start, 5, 7]]] * 2))
        for start in (vocabulary.start("formal"), START)
    )
    torch.testing.assert_close(said, plain)


def test_words_that_teachers_lack_are_learned_from_captions_alone():
    output = make_decoder("show_attend_tell")(make_features(), CAPTIONS)
    logits = output.logits.detach().requires_grad_()
    known = logits.shape[1] - 2
    taught = torch.rand(len(logits), known).softmax(dim=1)
    expected = nn.functional.cross_entropy(logits[:, :known], taught)
    found = soft_cross_entropy(output._replace(logits=logits), taught).mean()
    torch.testing.assert_close(found, expected)
    found.backward()
    assert not logits.grad[:, known:].any()
    assert logits.grad[:, :known].any()


def test_teachers_agree_on_their_words(checkpoint, tmp_path):
    vocabulary = checkpoint.vocabulary
    model = TorchBackend.from_checkpoint(checkpoint).model
    model.enlarge_vocabulary(len(vocabulary) + 1)
    grown = vocabulary.extended(["zorb"])
    save_checkpoint(
        tmp_path / "grown",
        model,
        vocabulary=grown,
        preprocessing=checkpoint.preprocessing,
        decoding=checkpoint.decoding,
        card="",
        onnx=False,
    )
    folders = [checkpoint.folder, tmp_path / "grown"]
    with pytest.raises(ConfigError, match="differs from the model's"):
        Teachers(folders, grown, checkpoint.preprocessing)
    assert Teachers(folders[1:], grown, checkpoint.preprocessing).words == len(grown)


def test_the_checkpoint_that_a_run_begins_with_can_teach():
    config = DistillationConfig(["init_from", "other"])
    assert config.folders("runs/photos/best") == ["runs/photos/best", "other"]
    with pytest.raises(ConfigError, match=r"but model\.init_from is null"):
        config.folders(None)


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ConfigError, match="expected a share from 0 to 1"):
        DistillationConfig(weight=1.1)


class Taught(Watch):
    name = "train/taught"


def options(first_stage, run):
    folder, data = first_stage
    return [
        f"--config={TINY}",
        "--data.preprocessing.size=64",
        *QUICK,
        *data,
        f"--model.distillation={{teachers: [{folder}/best], weight: 1.0}}",
        f"--trainer.default_root_dir={run}",
        "--trainer.max_epochs=4",
        "--trainer.check_val_every_n_epoch=4",
        "--model.warmup_steps=1",
        "--model.learning_rate=5e-3",
    ]


def test_a_new_model_learns_what_they_say(first_stage, tmp_path):
    taught = Taught()
    assert (
        train_with(taught, options(first_stage, tmp_path / "run")) == 0
    )  # frozen, so that features are shared
    assert taught.values[-1] < taught.values[0] - 0.2  # nats; the rest is their own uncertainty


def test_features_of_several_encoders_are_kept_side_by_side(checkpoint):
    """Teachers say of joint features what they say of pixels, whichever encoders they share."""
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    captions = torch.tensor([[[START, 5, 9, 7]]] * 2)
    teachers = Teachers([checkpoint.folder] * 3, checkpoint.vocabulary, checkpoint.preprocessing)
    with torch.no_grad():
        for model, factor in zip(
            teachers.models[1:], (1.5, 1.5), strict=True
        ):  # the second and the third share one
            next(model.encoder.parameters()).mul_(factor)
    torch.manual_seed(1)
    own = Encoder(EncoderConfig(SMALL_RESNET, grid=3), 64).eval()
    joint = teachers.join(own)
    features = joint(pixels)
    assert features.shape == (2, joint.regions, own.width + 2 * teachers.models[0].encoder.width)
    torch.testing.assert_close(features[:, :, : own.width], own(pixels))
    said = teachers.probabilities(features, captions)
    torch.testing.assert_close(said, teachers.probabilities(pixels, captions))
    one = Teachers([checkpoint.folder], checkpoint.vocabulary, checkpoint.preprocessing)
    assert not torch.allclose(said, one.probabilities(pixels, captions))
    encoder = one.models[0].encoder
    assert one.join(encoder).width == encoder.width  # the model's own, computed once


@pytest.mark.slow
def test_a_new_model_with_another_encoder_learns_from_kept_features(first_stage, tmp_path):
    taught = Taught()
    assert (
        train_with(taught, [*options(first_stage, tmp_path / "run"), "--model.weights=null"]) == 0
    )
    assert taught.values[-1] < taught.values[0] - 0.1


def test_teachers_with_another_grid_need_images(first_stage, tmp_path, caplog):
    other = [*options(first_stage, tmp_path / "run"), "--model.encoder.grid=1"]
    assert main(other) == 2
    assert "set data.cache_features to 0" in caplog.text
    seen = [
        "--data.cache_features=0",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        f"--trainer.default_root_dir={tmp_path}/images",
    ]
    assert main([*other, *seen]) == 0


@pytest.mark.slow
def test_it_is_resumed_where_the_encoder_has_moved_on(first_stage, tmp_path):
    arguments = [
        *options(first_stage, tmp_path / "run"),
        "--model.finetune={stages: [features.8], from_epoch: 1}",
        "--trainer.limit_train_batches=2",
    ]
    assert main([*arguments, "--trainer.max_epochs=2"]) == 0
    assert main([*arguments, "--trainer.max_epochs=3", "--ckpt_path=last"]) == 0


def test_teachers_that_are_not_there_are_named_before_anything_is_computed(
    first_stage, tmp_path, caplog
):
    missing = "--model.distillation.teachers=[nowhere]"
    assert main([*options(first_stage, tmp_path / "run"), missing]) == 2
    said = caplog.text
    assert "nowhere" in said and "Computing" not in said
