"""`captioner calibrate`: confidence of captions and temperature of tags."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.checkpoint import CONFIG, read_checkpoint
from captioner.cli import main
from captioner.errors import ConfigError, DataError
from captioner.evaluation.calibration import calibrate, kept_scores
from captioner.evaluation.cider import cider_d
from captioner.inference import Captioner
from captioner.tags.calibration import fit_tag_temperature
from captioner.tags.matching import NounMatcher
from captioner.tokenizer import tokenize
from tests.annotated import annotate


@pytest.fixture(scope="module")
def annotations(
    captioner: Captioner,
    picture: Callable[[int], Image.Image],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return annotate(captioner, picture, tmp_path_factory.mktemp("photos"))


@pytest.fixture
def model(checkpoint_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint_folder, tmp_path / "model")


def references(annotations: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in map(json.loads, annotations.read_text().splitlines()):
        found.setdefault(row["image"], []).append(row["caption"])
    return found


def test_the_command_writes_the_calibration_that_captions_then_use(
    model: Path, annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    captioner = Captioner.from_pretrained(model)
    assert main(["calibrate", "--model", str(model), "--annotations", str(annotations)]) == 0
    printed = capsys.readouterr().out
    assert "60 photos; cross-validated:" in printed
    assert all(part in printed for part in ("AUC", "log loss", "calibration error", "base rate"))
    after = {path.name: path.read_bytes() for path in model.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {CONFIG}
    assert before.keys() == after.keys()
    config, old = (json.loads(files[CONFIG]) for files in (after, before))
    changed = {key for key in config if config[key] != old.get(key)}
    assert changed == {"tags", "confidence"}

    texts = references(annotations)
    paths = [annotations.parent / name for name in texts]
    (stepper, *more) = captioner.encode(paths, batch_size=100)
    classes = np.concatenate(
        [each.classes for each in (stepper, *more) if each.classes is not None]
    )
    table = captioner.tags.tagger.table  # type: ignore[union-attr]
    named = NounMatcher(table).named_in(list(texts.values()))
    expected = fit_tag_temperature(table, classes, named)
    assert config["tags"]["temperature"] == pytest.approx(expected, rel=1e-3)

    said = captioner.caption(paths)
    _, scores = cider_d(
        {name: [tokenize(text) for text in lines] for name, lines in texts.items()},
        {name: tokenize(caption.text) for name, caption in zip(texts, said, strict=True)},
    )
    captions = Captioner.from_pretrained(model).caption(paths)
    found = np.array([caption.confidence for caption in captions])
    good = scores >= config["confidence"][""]["good"]
    assert 10 <= good.sum() <= 50
    assert found.mean() == pytest.approx(good.mean(), abs=1e-5), "as a fit with a bias has it"


def test_each_part_can_be_kept(model: Path, annotations: Path) -> None:
    config = json.loads((model / CONFIG).read_text())
    found = calibrate(model, annotations, only="confidence", good=0.3)
    now = json.loads((model / CONFIG).read_text())
    assert found.tags is None and found.confidence is not None
    assert now.pop("confidence")[""]["good"] == 0.3
    assert now == config
    confidence = read_checkpoint(model).confidence
    tags = calibrate(model, annotations, only="tags")
    assert tags.confidence is None and tags.tags is not None
    assert read_checkpoint(model).confidence == confidence
    assert read_checkpoint(model).tags == tags.tags.config
    assert tags.tags.config.temperature != config["tags"]["temperature"]
    before = (model / CONFIG).read_bytes()
    calibrate(model, annotations, write=False)
    assert (model / CONFIG).read_bytes() == before


def test_calibration_errors_are_reported(
    model: Path, annotations: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = (model / CONFIG).read_bytes()
    few = tmp_path / "few.csv"
    few.write_text("image,caption\na.png,a dog\n")
    with pytest.raises(DataError, match="has 1 photos; calibration requires at least 50"):
        calibrate(model, few)
    with pytest.raises(
        DataError, match=r"of 60 captions are good, with a CIDEr-D of at least 9\.9"
    ):
        calibrate(model, annotations, good=9.9)
    nameless = annotations.with_name("nameless.csv")
    rows = [f"{image},zorb" for image in references(annotations)]
    nameless.write_text("\n".join(["image,caption", *rows]))
    with pytest.raises(DataError, match=r"^0 of \d+ tags are named.*\(--only confidence\)"):
        calibrate(model, nameless, only="tags")
    with pytest.raises(ConfigError, match="expected a number between 0 and 10"):
        calibrate(model, annotations, good=10)
    with pytest.raises(ConfigError, match="no style 'loud'"):
        calibrate(model, annotations, style="loud")
    assert main(["calibrate", "--annotations", str(annotations)]) == 2
    assert "expected one --model" in capsys.readouterr().err
    assert (model / CONFIG).read_bytes() == before


def test_scores_of_kept_captions_equal_hand_computed_ones() -> None:
    confidence = np.array([0.2, 0.9, 0.5, 0.7])
    scores = np.array([0.0, 1.0, 0.4, 0.1])
    found = kept_scores(confidence, scores, [1, 0.75, 0.5, 0.25])
    assert found == pytest.approx([1.5 / 4, 1.5 / 3, 1.1 / 2, 1])
