"""Attacks, compared with hand computation, torchattacks if installed, and the search."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

from captioner.errors import ConfigError
from captioner.inference import Captioner
from captioner.robustness.attacks import caption_loss, fgsm, ids_of, pgd
from scripts import benchmark, benchmark_adversarial
from scripts.benchmark_adversarial import (
    LEVELS,
    Nouns,
    Outcome,
    auc,
    find_smallest,
    rows_of,
    to_images,
    to_pixels,
)

EPSILON = 8 / 255


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand((2, 3, 6, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def attacked(checkpoint_folder: Path) -> Captioner:
    return Captioner.from_pretrained(checkpoint_folder, backend="torch")


def test_a_linear_loss_is_raised_as_far_as_it_goes(pixels: Tensor) -> None:
    weights = torch.randn(pixels.shape[1:], generator=torch.Generator().manual_seed(1))
    best = (pixels + EPSILON * weights.sign()).clamp(0, 1)  # the corner of the box
    for found in (
        fgsm(lambda at: (at * weights).sum(dim=(1, 2, 3)), pixels, EPSILON),
        pgd(lambda at: (at * weights).sum(dim=(1, 2, 3)), pixels, EPSILON),
        pgd(lambda at: (at * weights).sum(dim=(1, 2, 3)), pixels, EPSILON, seed=None),
    ):
        assert torch.allclose(found, best, atol=1e-6)


def test_pgd_takes_the_steps_that_numpy_takes(pixels: Tensor) -> None:
    """The loss is -|x - c|^2, so its gradient is 2 (c - x)."""
    centre, size = 0.5, EPSILON / 3
    own = x = pixels.double().numpy()
    for _ in range(7):
        x = x + size * np.sign(centre - x)
        x = np.clip(np.clip(x, own - EPSILON, own + EPSILON), 0, 1)
    found = pgd(
        lambda at: -((at - centre) ** 2).sum(dim=(1, 2, 3)),
        pixels.double(),
        EPSILON,
        steps=7,
        step_size=size,
        seed=None,
    )
    assert np.allclose(found.numpy(), x, atol=1e-9)


def test_attacks_on_a_classifier_are_those_of_torchattacks(pixels: Tensor) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(64, 5)
    ).eval()
    labels = torch.tensor([1, 4])

    def loss(at: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(model(at), labels, reduction="none")

    theirs = torchattacks.FGSM(model, eps=EPSILON)(pixels, labels)
    assert torch.allclose(fgsm(loss, pixels, EPSILON), theirs, atol=1e-6)
    theirs = torchattacks.PGD(model, eps=EPSILON, alpha=0.01, steps=6, random_start=False)(
        pixels, labels
    )
    ours = pgd(loss, pixels, EPSILON, steps=6, step_size=0.01, seed=None)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_loss_of_captions_is_what_the_search_says_of_them(
    attacked: Captioner, picture: Callable[[int], Image.Image]
) -> None:
    photos = [attacked.preprocessing.fit(picture(number)) for number in range(6)]
    captions = attacked.caption(photos)
    assert len({len(caption.words) for caption in captions}) > 1
    words = [[attacked.vocabulary.index(word) for word in c.words] for c in captions]
    loss = caption_loss(attacked, words)(to_pixels(photos))
    assert (-loss).tolist() == pytest.approx([c.log_prob for c in captions], abs=1e-4)


def test_a_photos_gradient_is_that_of_its_own_caption(
    attacked: Captioner, picture: Callable[[int], Image.Image]
) -> None:
    photos = to_pixels([attacked.preprocessing.fit(picture(number)) for number in range(2)])
    words = [ids_of(attacked, text) for text in ("a dog on the beach", "a red cat")]
    together = fgsm(caption_loss(attacked, words), photos, EPSILON)
    for row in range(2):
        loss = caption_loss(attacked, words[row : row + 1])
        alone = fgsm(loss, photos[row : row + 1], EPSILON)
        assert (alone != together[row : row + 1]).float().mean() < 0.01  # signs of nothing


def test_attacks_raise_the_loss_and_stay_small(
    attacked: Captioner, picture: Callable[[int], Image.Image]
) -> None:
    photos = to_pixels([attacked.preprocessing.fit(picture(number)) for number in range(3)])
    loss = caption_loss(attacked, [ids_of(attacked, "a dog on the beach")] * 3)
    for found in (fgsm(loss, photos, EPSILON), pgd(loss, photos, EPSILON)):
        assert (found - photos).abs().max() <= EPSILON + 1e-6
        assert found.min() >= 0 and found.max() <= 1
        assert (loss(found) > loss(photos)).all()
        stored = to_pixels(to_images(found))
        assert (stored - photos).abs().max() <= EPSILON + 1e-6, "as an 8-bit file too"
    assert torch.equal(pgd(loss, photos, EPSILON), pgd(loss, photos, EPSILON))
    aimed = pgd(lambda at: -loss(at), photos, EPSILON)
    assert (loss(aimed) < loss(photos)).all()


def test_what_cannot_be_attacked_is_refused(captioner: Captioner, attacked: Captioner) -> None:
    with pytest.raises(ConfigError, match="Attacks require gradients"):
        caption_loss(captioner, [[5]])
    with pytest.raises(ConfigError, match="lacks the words zebra, quilt"):
        ids_of(attacked, "a zebra quilt")
    with pytest.raises(ConfigError, match="It is empty"):
        ids_of(attacked, " ")


def test_nouns_are_things_and_not_words() -> None:
    nouns = Nouns()
    assert nouns("a puppy sits by the kittens") == nouns("two dogs and a cat")
    assert nouns("a dog on the beach") != nouns("a cat on the beach")
    assert not nouns("it is very nice")


def test_an_epsilon_of_its_own_for_each_photo(pixels: Tensor) -> None:
    weights = torch.randn(pixels.shape[1:], generator=torch.Generator().manual_seed(1))

    def loss(at: Tensor) -> Tensor:
        return (at * weights).sum(dim=(1, 2, 3))

    epsilons = torch.tensor([0.01, 0.2]).view(2, 1, 1, 1)
    for attack in (fgsm, pgd):
        together = attack(loss, pixels, epsilons)
        for row, epsilon in enumerate((0.01, 0.2)):
            alone = attack(loss, pixels[row : row + 1], epsilon)
            assert torch.allclose(together[row : row + 1], alone, atol=1e-6)


@pytest.mark.parametrize("known", [[*LEVELS, math.inf], [math.inf] * (len(LEVELS) + 1)])
def test_the_smallest_epsilon_is_found_in_few_attacks(known: list[float]) -> None:
    levels = [*LEVELS, math.inf]
    asked = []

    def changes(rows: Sequence[int], epsilons: Sequence[float]) -> list[bool]:
        asked.append(len(rows))
        return [epsilon >= levels[row] for row, epsilon in zip(rows, epsilons, strict=True)]

    assert find_smallest(changes, known) == levels
    assert len(asked) <= 3, "bisection of eight outcomes"


def test_auc_is_that_of_ranks() -> None:
    random = np.random.default_rng(0)
    clean, attacked = random.integers(0, 9, 40) / 9, random.integers(0, 7, 50) / 9
    ranks = rankdata(np.concatenate([clean, attacked]))[:40].sum()
    expected = 100 * (ranks - 40 * 41 / 2) / (40 * 50)  # Mann and Whitney's U
    assert auc(clean.tolist(), attacked.tolist()) == pytest.approx(expected)
    assert auc([None], [0.5]) is None


def test_the_table_counts_photos() -> None:
    outcomes = [
        Outcome(
            {"FGSM": fgsm, "PGD": pgd},
            {("random signs", 1.0): False, ("PGD, then half size", 0.0): changed},
            {0: 0.8, 1: 0.4, 4: 0.8},
            changed,
        )
        for fgsm, pgd, changed in ((0.5, 0.25, True), (math.inf, 2, False))
    ]
    rows = {row.pop(""): row for row in rows_of(outcomes)}
    assert rows["FGSM"]["1/4"] == 0 and rows["FGSM"]["1/2"] == rows["FGSM"]["2"] == 50
    assert rows["PGD"]["1/4"] == 50 and rows["PGD"]["2"] == 100 and rows["PGD"]["4"] is None
    assert rows["PGD, then half size"]["0"] == 50 and rows["says the sentence"]["8"] == 50
    assert rows["AUC of confidence, PGD"]["1"] == 100
    assert rows["AUC of confidence, PGD"]["4"] == 50


@pytest.mark.slow
def test_the_benchmark_attacks(
    checkpoint_folder: Path,
    tmp_path: Path,
    picture: Callable[[int], Image.Image],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark_adversarial, "EPSILONS", (1, 16))
    monkeypatch.setattr(benchmark_adversarial, "STEPS", 3)
    monkeypatch.setattr(benchmark_adversarial, "LEVELS", (1, 4, 16))
    monkeypatch.setattr(benchmark_adversarial, "TARGET_STEPS", 2)
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    call = ["adversarial", "--model", str(checkpoint_folder), "--images", str(tmp_path)]
    call += ["--photos", "4", "--json", str(tmp_path / "figures.json")]
    assert benchmark.main([*call, "--target", "a red dog"]) == 0
    written = json.loads((tmp_path / "figures.json").read_text())["adversarial"]
    rows = {row.pop(""): row for row in written["rows"]}
    assert list(rows) == [
        "random signs",
        "FGSM",
        "PGD",
        "PGD, then JPEG 75",
        "PGD, then half size",
        "confidence, PGD",
        "AUC of confidence, PGD",
        "says the sentence",
    ]
    for name, row in rows.items():
        assert list(row) == ["0", "1", "4", "8", "16"]
        shares = [value for value in row.values() if value is not None]
        assert all(0 <= share <= 100 for share in shares), name
    assert "PGD, then JPEG 75" in capsys.readouterr().out
    assert rows["PGD"]["16"] >= rows["FGSM"]["16"] and rows["FGSM"]["16"] >= rows["FGSM"]["1"]
    assert benchmark.main([*call, "--target", "a zebra"]) == 2
    assert "lacks the words zebra" in capsys.readouterr().err
