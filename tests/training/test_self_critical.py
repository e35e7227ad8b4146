"""Self-critical training: samples, rewards and the gradient, against enumeration."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from captioner.errors import ConfigError
from captioner.evaluation.cider import cider_d
from captioner.training.self_critical import (
    Critic,
    SelfCriticalConfig,
    draw_captions,
    merge_captions,
    policy_gradient,
)
from captioner.training.train import main
from captioner.vocabulary import END, PAD, SPECIAL_WORDS, START, UNKNOWN, Vocabulary
from tests.model.decoders import B, both, make_decoder, make_features
from tests.training.runs import QUICK, TINY, last_checkpoint, train_with
from tests.training.test_resume import Disturb, assert_same, crash

WORDS = Vocabulary([*SPECIAL_WORDS, "a", "dog", "runs", "sleeps", "cat", "on", "grass"])


def ids(*captions):
    """Captions of one image as a batch (1, K, T); what doesn't end in "." has not ended."""
    rows = []
    for caption in captions:
        words = caption.rstrip(".").split()
        rows.append([START, *map(WORDS.index, words), *([END] if caption.endswith(".") else [])])
    length = max(map(len, rows))
    return torch.tensor([[row + [PAD] * (length - len(row)) for row in rows]])


# --- What is drawn


@both
def test_captions_are_drawn_with_the_models_own_probabilities(name):
    vocab_size, samples = 6, 40_000
    decoder = make_decoder(name, vocab_size=vocab_size, dropout=0.5)
    features = make_features()[:1]
    torch.manual_seed(0)
    drawn = draw_captions(decoder.train(), features, samples, max_length=2)
    assert decoder.training

    decoder.eval()
    allowed = [word for word in range(vocab_size) if word not in (PAD, START, UNKNOWN)]
    image, state = decoder.prepare(features)
    state = {key: array.unsqueeze(1) for key, array in state.items()}

    def follow(words):
        """The probability of each next word by stepping, renormalised without forbidden words."""
        current = state
        for word in [START, *words]:
            logits, current, _ = decoder.step(image, current, torch.tensor([[word]]))
        odds = torch.full((vocab_size,), -math.inf)
        odds[allowed] = logits[0, 0, allowed]
        return odds.softmax(dim=0)

    expected = {(): float(follow([])[END])}
    for first in set(allowed) - {END}:
        likely = float(follow([])[first])
        expected[first,] = likely * float(follow([first])[END])
        for second in set(allowed) - {END}:
            expected[first, second] = likely * float(follow([first])[second])
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)

    counts = dict.fromkeys(expected, 0)
    for row in drawn[0].tolist():
        assert row[0] == START and START not in row[1:] and UNKNOWN not in row
        end = row.index(END) if END in row else len(row)
        assert all(word == PAD for word in row[end + 1 :])
        counts[tuple(word for word in row[1:end] if word != PAD)] += 1
    for words, probability in expected.items():
        assert counts[words] / samples == pytest.approx(
            probability, abs=5 * math.sqrt(0.25 / samples)
        ), words


def test_drawing_ends_with_the_last_caption_and_never_runs_over_the_length():
    decoder = make_decoder("show_tell", vocab_size=6)
    with torch.no_grad():
        decoder.output.bias[END] = 50
    assert (
        draw_captions(decoder, make_features(), 3, max_length=9).tolist()
        == [[[START, END]] * 3] * B
    )
    with torch.no_grad():
        decoder.output.bias[END] = -50
    drawn = draw_captions(decoder, make_features(), 3, max_length=9)
    assert drawn.shape == (B, 3, 11)
    assert (drawn[:, :, 1:10] > UNKNOWN).all() and (drawn[:, :, 10] == PAD).all()


# --- What it is worth
# -------------------------------------------------------------------------------------------------


REFERENCES = [
    [["a", "dog", "runs", "on", "grass"], ["a", "dog", "runs"]],
    [["a", "cat", "sleeps"], ["a", "cat", "on", "grass"]],
    [["the", "bird", "sings"]],
]


def test_a_reward_is_cider_d_with_the_end_as_a_word_less_the_mean_of_the_others():
    captions = ids("a dog runs.", "a dog.", "a dog on grass.", "a dog runs")
    advantages, figures = Critic(REFERENCES, WORDS).judge(torch.tensor([0]), captions)
    ended = {i: [[*tokens, "END"] for tokens in texts] for i, texts in enumerate(REFERENCES)}

    def reward(*tokens):
        return cider_d(ended, {0: tokens, 1: (), 2: ()})[1][0]

    rewards = [
        reward("a", "dog", "runs", "END"),
        reward("a", "dog", "END"),
        reward("a", "dog", "on", "grass", "END"),
        reward("a", "dog", "runs"),
    ]
    assert rewards[0] > rewards[3]  # the same words, but it didn't end
    expected = [value - np.mean(rewards[:i] + rewards[i + 1 :]) for i, value in enumerate(rewards)]
    np.testing.assert_allclose(advantages.numpy(), [expected], atol=1e-5)
    assert figures["reward"] == pytest.approx(np.mean(rewards), abs=1e-5)


def test_each_image_is_judged_by_its_own_record():
    captions = torch.cat([ids("a cat sleeps.", "a dog runs."), ids("a cat sleeps.", "a dog runs.")])
    advantages, _ = Critic(REFERENCES, WORDS).judge(torch.tensor([1, 0]), captions)
    assert advantages[0, 0] > 0 > advantages[0, 1]
    assert advantages[1, 1] > 0 > advantages[1, 0]


def test_words_used_and_bad_endings_are_counted():
    critic = Critic(REFERENCES, WORDS, endings=["a", "on"])
    for _ in range(2):
        _, figures = critic.judge(
            torch.tensor([0]), ids("a dog runs.", "a dog on.", "a dog runs", ".")
        )
        assert figures["words_used"] == 4
        assert (
            figures["bad_endings"] == 0.75
        )  # on one of the endings, not at all, and without a word
    critic.forget()
    assert critic.judge(torch.tensor([0]), ids("a cat.", "a cat."))[1]["words_used"] == 2


# --- The loss


@both
def test_given_and_drawn_captions_run_together_as_they_would_alone(name):
    decoder, features = make_decoder(name), make_features()[:3]
    given = torch.tensor(
        [[[1, 5, 2, 0, 0], [1, 4, 6, 9, 2]], [[1, 7, 2, 0, 0], [0] * 5], [[1, 2, 0, 0, 0], [0] * 5]]
    )
    drawn = torch.tensor([[[1, 5, 6], [1, 2, 0]], [[1, 7, 8], [1, 2, 0]], [[1, 4, 4], [1, 9, 2]]])
    merged, images, origin = merge_captions(given, drawn)
    assert merged.shape == (3, 4, 5)
    lengths = (merged != PAD).sum(dim=2)
    assert (lengths.diff(dim=1) <= 0).all() and (lengths[:, 0].diff() <= 0).all()
    together = decoder(features[images], merged)
    seen = (
        torch.zeros(merged.shape[:2])
        .flatten()
        .index_add(0, together.rows, torch.ones(len(together.rows)))
    )
    assert seen.view(lengths.shape).tolist() == (lengths - 1).clamp(min=0).tolist()
    for i, image in enumerate(images.tolist()):
        rows = [row[: int((row != PAD).sum())].tolist() for row in merged[i]]
        assert sorted(rows) == sorted(
            row[row != PAD].tolist() for row in (*given[image], *drawn[image])
        )
        for k in range(4):
            if not rows[k]:
                continue
            source = drawn[image, origin[i, k]] if origin[i, k] >= 0 else None
            assert source is None or source[source != PAD].tolist() == rows[k]
            alone = decoder(features[image : image + 1], merged[i : i + 1, k : k + 1])
            mine = together.rows == i * 4 + k
            assert together.targets[mine].tolist() == alone.targets.tolist()
            torch.testing.assert_close(together.logits[mine], alone.logits)


def test_the_gradient_is_that_of_the_expected_reward():
    """Over the words that can be drawn: END and those behind UNKNOWN."""
    logits = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rewards = torch.tensor([0.0, 0.0, 2.0, 0.0, -1.0, 0.3, 1.1], dtype=torch.float64)
    drawn = [END, 4, 5, 6]

    def probabilities(odds):
        return torch.zeros_like(odds).index_put((torch.tensor(drawn),), odds[drawn].softmax(dim=0))

    baseline = 0.7  # any number that doesn't depend on the word that was drawn

    free = logits.clone().requires_grad_()
    for word in drawn:
        likely = probabilities(logits)[word]
        loss, _ = policy_gradient(
            free.unsqueeze(0), torch.tensor([word]), rewards[word : word + 1] - baseline
        )
        (likely * loss).backward()

    def expected_reward(odds):
        return float(probabilities(odds) @ rewards)

    for i, step in itertools.product(range(7), [1e-6]):
        up, down = logits.clone(), logits.clone()
        up[i] += step
        down[i] -= step
        slope = (expected_reward(up) - expected_reward(down)) / (2 * step)
        assert -free.grad[i].item() == pytest.approx(slope, abs=1e-8)


def test_the_entropy_is_that_of_the_words_distributions():
    logits = torch.tensor(
        [[9.0, 9.0, 0.0, 9.0, 0.0, 0.0, 0.0], [9.0, 9.0, 50.0, 9.0, 0.0, 0.0, 0.0]]
    )
    _, entropy = policy_gradient(logits, torch.tensor([END, END]), torch.tensor([1.0, 1.0]))
    assert entropy.item() == pytest.approx(math.log(4) / 2, abs=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"weight": 1.5}, {"weight": -0.1}, {"samples": 1}, {"max_length": 0}]
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected a weight from 0 to 1"):
        SelfCriticalConfig(**wrong)


# --- Runs


def second_stage(first_stage, run, **changes):
    folder, data = first_stage
    settings = {
        "trainer.max_epochs": 2,
        "model.learning_rate": 5e-4,
        "model.warmup_steps": 1,
    } | changes
    return [
        f"--config={TINY}",
        "--data.preprocessing.size=64",
        *QUICK,
        *data,
        f"--model.init_from={folder}/best",
        "--model.self_critical={weight: 0.9, samples: 4, max_length: 12}",
        "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging",
        f"--trainer.default_root_dir={run}",
        *(f"--{name}={value}" for name, value in settings.items()),
    ]


class Watch(Callback):
    """Keeps a figure that is logged at each step."""

    name = "train/reward"

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(trainer.callback_metrics[self.name]))


@pytest.mark.slow
def test_the_reward_rises(first_stage, tmp_path):
    watch, changes = (
        Watch(),
        {
            "trainer.max_epochs": 8,
            "trainer.check_val_every_n_epoch": 8,
            "model.learning_rate": 3e-3,
        },
    )
    assert train_with(watch, second_stage(first_stage, tmp_path / "run", **changes)) == 0
    third = len(watch.values) // 3
    assert np.mean(watch.values[-third:]) > 1.15 * np.mean(watch.values[:third])


@pytest.mark.slow
def test_a_run_goes_on_as_if_never_interrupted(first_stage, tmp_path):
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    assert main(second_stage(first_stage, whole)) == 0
    often = {"checkpoint.every_minutes": 1e-9}
    with pytest.raises(RuntimeError, match="caught fire"):
        train_with(Disturb(1, 2, crash), second_stage(first_stage, broken, **often))
    assert Path(broken, "checkpoints", "last.ckpt").is_file()
    assert main([*second_stage(first_stage, broken, **often), "--ckpt_path=last"]) == 0
    assert_same(last_checkpoint(whole), broken)
