"""SimSiam: its loss by hand, its stopped gradient, and what is watched against collapse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from captioner.data.dataset import Augmentation
from captioner.model.own_weights import read_facts
from captioner.preprocessing import Preprocessing
from captioner.pretraining import module
from captioner.pretraining.dataset import LabelledDataset, collate
from captioner.pretraining.simsiam import (
    SimSiam,
    find_partners,
    join_views,
    simsiam_loss,
    spread,
)
from captioner.pretraining.sources import LabelledImages
from captioner.pretraining.train import main
from tests.pretraining.shapes import SMALL, draw_folder


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_that_of_the_paper() -> None:
    """D(p1, z2) / 2 + D(p2, z1) / 2, with D(p, z) = -p z / |p| |z|; equations 1 and 2."""

    def distance(p: np.ndarray, z: np.ndarray) -> float:
        each = (p * z).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(z, axis=1)
        return -float(each.mean())

    projections, predictions = drawn(8, 5), drawn(8, 5, seed=1)
    z1, z2 = projections.numpy()[:4], projections.numpy()[4:]
    p1, p2 = predictions.numpy()[:4], predictions.numpy()[4:]
    expected = distance(p1, z2) / 2 + distance(p2, z1) / 2
    assert simsiam_loss(projections, predictions).item() == pytest.approx(expected, abs=1e-6)


def test_no_gradient_flows_through_what_is_predicted() -> None:
    projections, predictions = (drawn(6, 4, seed=seed).requires_grad_() for seed in (0, 1))
    simsiam_loss(projections, predictions).backward()
    assert projections.grad is None
    assert predictions.grad is not None and predictions.grad.abs().sum() > 0
    torch.manual_seed(0)
    head, outputs = SimSiam(8), drawn(6, 8)
    simsiam_loss(*head(outputs)).backward()
    found = [each.grad.clone() for each in head.projector.parameters()]
    head.zero_grad()
    fixed, (_, predicted) = head(outputs)[0].detach(), head(outputs)
    targets = torch.cat([fixed[3:], fixed[:3]])
    (-torch.nn.functional.cosine_similarity(predicted, targets).mean()).backward()
    for gradient, parameter in zip(found, head.projector.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_views_are_joined_so_that_the_other_one_is_half_a_batch_away() -> None:
    images = drawn(3, 2, 3, 4, 4)
    joined = join_views(images)
    for row in range(3):
        assert torch.equal(joined[row], images[row, 0])
        assert torch.equal(joined[row + 3], images[row, 1])


def test_partners_are_found_where_they_are_nearest() -> None:
    angles = torch.tensor([0.0, 1.0, 2.0, 0.1, 1.1, 0.3])  # the last lies beside the first image
    projections = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)
    assert find_partners(projections).tolist() == [True, True, False, True, True, False]


def test_collapsed_outputs_have_no_spread_and_random_ones_one() -> None:
    assert spread(drawn(512, 64)).item() == pytest.approx(1, abs=0.05)
    by_hand = drawn(6, 3).numpy()
    by_hand = by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True)
    expected = by_hand.std(axis=0).mean() * 3**0.5
    assert spread(drawn(6, 3)).item() == pytest.approx(expected, abs=1e-6)
    assert spread(torch.ones(8, 16) * drawn(8, 1).abs()).item() == pytest.approx(0, abs=1e-6)


def test_two_views_of_an_image_are_varied_independently() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    images = LabelledImages((), np.zeros(5, np.int64), pixels)
    datasets = [
        LabelledDataset(
            images, Preprocessing(size=8), Augmentation(crop=0.3), seed=seed, paired=True
        )
        for seed in (0, 0, 1)
    ]
    first, again, other = (data[2, 3].image for data in datasets)
    assert first.shape == (2, 8, 8, 3)
    assert not np.array_equal(first[0], first[1])
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert collate([datasets[0][0, index] for index in range(5)]).images.shape == (5, 2, 8, 8, 3)


def test_a_run_gives_an_encoder_and_watches_for_collapse(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    draw_folder(Path("train"), each=12)
    options = ["--data.train=train", "--model.method=simsiam", "--model.mixup=0.3"]
    options += ["--data.augmentation.crop=0.3", "--trainer.max_epochs=1"]
    assert main([*SMALL, *options]) == 0, caplog.text
    assert "collapsed" not in caplog.text
    facts = read_facts("run/encoder.safetensors")
    assert facts is not None and facts.classes == ()
    names = {name.rpartition(".")[0] for name in load_file("run/encoder.safetensors")}
    assert names == {"features.0", "features.3", "classifier.1"}, "neither head nor last layer"
    monkeypatch.setattr(module, "COLLAPSED", 10)
    assert main([*SMALL, *options, "--trainer.default_root_dir=other"]) == 0
    assert "SimSiam has collapsed" in caplog.text
