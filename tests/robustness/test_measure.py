"""Scores under damages, the report, and the part `robustness` of scripts/benchmark.py."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from captioner.errors import ConfigError, DataError
from captioner.evaluation.cider import cider_d
from captioner.inference import Captioner
from captioner.robustness.damages import damage, fit
from captioner.robustness.measure import Robustness, measure
from captioner.robustness.report import curve, page, save_report, worst
from captioner.tokenizer import tokenize
from scripts import benchmark
from scripts.benchmark_robustness import find_photos

COUNT = 8


@pytest.fixture(scope="module")
def photos(
    picture: Callable[[int], Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> dict[int | str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        picture(number).save(folder / f"{number}.png")
    return {number: folder / f"{number}.png" for number in range(COUNT)}


@pytest.fixture(scope="module")
def references(captioner: Captioner, photos: dict[int | str, Path]) -> dict[int | str, list[str]]:
    captions = captioner.caption(photos.values())
    return {
        name: [caption.text, f"a {name} dog"]
        for name, caption in zip(photos, captions, strict=True)
    }


@pytest.fixture(scope="module")
def found(
    captioner: Captioner,
    photos: dict[int | str, Path],
    references: dict[int | str, list[str]],
) -> Robustness:
    return measure(captioner, photos, references, ["rotation", "night"], [1, 5])


def test_scores_are_those_of_captions_of_the_damaged_photos(
    found: Robustness,
    captioner: Captioner,
    photos: dict[int | str, Path],
    references: dict[int | str, list[str]],
) -> None:
    conditions = [(each.damage, each.severity) for each in found.damaged]
    assert conditions == [("rotation", 1), ("night", 1), ("night", 5)]
    tokens = {name: [tokenize(text) for text in texts] for name, texts in references.items()}
    for condition in found.damaged:
        damaged = [
            damage(fit(Image.open(path)), condition.damage, condition.severity, key=str(name))
            for name, path in photos.items()
        ]
        texts = [caption.text for caption in captioner.caption(damaged)]
        assert list(condition.captions) == texts
        score, each = cider_d(tokens, dict(zip(photos, map(tokenize, texts), strict=True)))
        assert condition.score == pytest.approx(score)
        assert condition.per_photo == pytest.approx(each)


def test_a_drop_is_relative_and_the_mean_over_severities_then_damages(found: Robustness) -> None:
    whole, (turned, dim, dark) = found.whole.score, [each.score for each in found.damaged]
    rotation, night = 1 - turned / whole, 1 - (dim + dark) / 2 / whole
    assert found.drops["rotation"].value == pytest.approx(rotation)
    assert found.drops["night"].value == pytest.approx(night)
    assert found.mean_drop.value == pytest.approx((rotation + night) / 2)
    for drop in (*found.drops.values(), found.mean_drop):
        assert drop.interval[0] <= drop.value <= drop.interval[1]


def test_without_references_the_captions_of_whole_photos_are_the_references(
    captioner: Captioner, photos: dict[int | str, Path]
) -> None:
    found = measure(captioner, photos, None, ["night"], [5])
    assert found.own
    assert [texts[0] for texts in found.references.values()] == list(found.whole.captions)
    assert (found.whole.per_photo >= found.damaged[0].per_photo - 1e-9).all()


def test_it_is_repeatable_and_a_seed_changes_it(
    captioner: Captioner, photos: dict[int | str, Path], references: dict[int | str, list[str]]
) -> None:
    first, again, other = (
        measure(captioner, photos, references, ["crop"], [1, 2, 3, 4, 5], seed=seed).to_dict()
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first["damages"] != other["damages"]


def test_what_cannot_be_measured_is_refused(
    captioner: Captioner, photos: dict[int | str, Path]
) -> None:
    with pytest.raises(DataError, match="expected two or more"):
        measure(captioner, dict(list(photos.items())[:1]), None, ["night"], [1])
    with pytest.raises(ConfigError, match="rotation has none of the severities 4, 5"):
        measure(captioner, photos, None, ["night", "rotation"], [4, 5])


def test_the_worst_photos_are_those_that_lose_most(found: Robustness) -> None:
    losses = {
        (photo, number): found.whole.per_photo[photo] - each.per_photo[photo]
        for photo in range(COUNT)
        for number, each in enumerate(found.damaged)
    }
    pairs = worst(found, most=3)
    assert len({photo for photo, _ in pairs}) == len(pairs) <= 3
    largest = sorted((max(losses[p, n] for n in range(3)) for p in range(COUNT)), reverse=True)
    told = [losses[photo, found.damaged.index(condition)] for photo, condition in pairs]
    assert told == pytest.approx([loss for loss in largest[:3] if loss > 0])


def test_the_report_is_whole(found: Robustness, tmp_path: Path) -> None:
    save_report(tmp_path / "out", found)
    figures = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert figures["damages"]["night"]["severities"]["5"]["CIDEr-D"] == found.damaged[2].score
    assert 0 <= figures["damages"]["night"]["severities"]["1"]["unchanged"] <= 1
    assert figures["whole"]["unchanged"] == 1
    with (tmp_path / "out" / "captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * COUNT and rows[-1]["caption"] == found.damaged[2].captions[-1]
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("<figure>") == len(worst(found)) and "night" in html
    for name in found.damages:
        text = (tmp_path / "out" / "curves" / f"{name}.svg").read_text()
        assert text == curve(found, name)
        ElementTree.fromstring(text)


def test_captions_on_the_page_are_text_and_no_html(
    captioner: Captioner, photos: dict[int | str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure(captioner, photos, None, ["night"], [5])
    hostile = tuple("<script>alert(1)</script>" for _ in found.whole.captions)
    object.__setattr__(found.whole, "captions", hostile)
    html = page(found)
    assert "<script" not in html and "&lt;script" in html


def test_where_whole_photos_score_nothing_no_drop_is_told(
    captioner: Captioner, photos: dict[int | str, Path], tmp_path: Path
) -> None:
    nothing = {name: ["zebra quilt"] for name in photos}
    found = measure(captioner, photos, nothing, ["night"], [5])
    assert math.isnan(found.mean_drop.value)
    save_report(tmp_path, found)
    assert json.loads((tmp_path / "robustness.json").read_text())["mean"]["relative drop"] is None


def test_the_benchmark_takes_photos_of_the_same_name(
    photos: dict[int | str, Path], tmp_path: Path
) -> None:
    some = list(photos.values())[:3]
    for number, path in enumerate(some):
        (tmp_path / str(number)).mkdir()
        shutil.copy(path, tmp_path / str(number) / "photo.png")
    found, _ = find_photos(benchmark.parse(["robustness", "--images", str(tmp_path)]))
    assert list(found) == ["0/photo.png", "1/photo.png", "2/photo.png"]


def test_the_benchmark_takes_any_annotations(
    checkpoint_folder: Path,
    photos: dict[int | str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "captions.csv"
    file.write_text("image,caption\n" + "".join(f"{path},a dog\n" for path in photos.values()))
    call = ["robustness", "--model", str(checkpoint_folder), "--photos", "4", "--seed", "2"]
    call += ["--annotations", str(file), "--json", str(tmp_path / "figures.json")]
    assert benchmark.main([*call, "--damages", "crop,contrast", "--severities", "2"]) == 0
    written = json.loads((tmp_path / "figures.json").read_text())["robustness"]
    assert "4 photos" in written["about"] and "annotations" in written["about"]
    assert [row["damage"] for row in written["rows"]] == ["contrast", "crop", "mean"]
    assert "drop %" in capsys.readouterr().out
    assert benchmark.main([*call, "--severities", "0"]) == 2
    assert "expected some of 1 to 5" in capsys.readouterr().err
    assert benchmark.main([*call, "--damages", "rain"]) == 2
    assert np.isfinite(written["rows"][0]["0"])
