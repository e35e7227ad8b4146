"""Runs on several sources in several styles, validated on several sets."""

import json
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from captioner import Captioner
from captioner.annotations.records import load_records
from captioner.checkpoint import read_checkpoint
from captioner.evaluation.assess import score
from captioner.training.train import main
from tests.training.domains import NEW, OLD, draw_domain
from tests.training.runs import QUICK, TINY, last_checkpoint, train_with
from tests.training.test_resume import Disturb, crash


@pytest.fixture
def options(tmp_path):
    """A small run on two sources; the second: half weight, own style, first captions only."""
    tables = {
        name: draw_domain(tmp_path / name, things, count, seed)
        for name, things, count, seed in (
            ("new", NEW, 18, 0),
            ("old", OLD, 24, 1),
            ("a", NEW, 17, 2),  # more than the two batches that are validated before training
            ("b", OLD, 12, 3),
        )
    }
    sources = {
        "new": {"annotations": str(tables["new"]), "captions_by": "human"},
        "old": {
            "annotations": str(tables["old"]),
            "weight": 0.5,
            "style": "second",
            "rank_weights": [1, 0.3],
            "captions_by": "a machine",
        },
    }
    validation = {
        "a": {"annotations": str(tables["a"]), "weight": 3},
        "b": {"annotations": str(tables["b"]), "style": "second"},
    }
    return [
        f"--config={TINY}",
        *QUICK,
        *(
            "--data.draw_shapes=0",
            "--data.train=null",
            "--data.val=null",
            "--data.train_images=null",
        ),
        *(f"--data.sources={json.dumps(sources)}", f"--data.validation={json.dumps(validation)}"),
        *(
            "--data.preprocessing.size=64",
            "--data.batch_size=8",
            "--model.decoding={beam_size: 2, max_length: 8}",
        ),
        *("--model.learning_rate=1e-2", "--model.warmup_steps=2", "--trainer.max_epochs=2"),
    ]


class Watch(Callback):
    """Keeps the figures of the last validation, and how many images the encoder is given."""

    def __init__(self):
        self.scores, self.encoded, self.hook = {}, 0, None

    def setup(self, trainer, pl_module, stage):
        def count(module, inputs):
            self.encoded += len(inputs[0])

        self.hook = pl_module.network.encoder.register_forward_pre_hook(count)

    def on_validation_end(self, trainer, pl_module):
        self.scores = {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_sets_are_scored_apart_and_their_mean_selects(options, tmp_path):
    watch = Watch()
    assert train_with(watch, [*options, "--trainer.check_val_every_n_epoch=2"]) == 0
    run = Path("runs/tiny")
    figures = {}
    for name in ("a", "b"):
        records = load_records(tmp_path / name / "photos.csv")
        captions = {
            entry["image_id"]: entry["caption"]
            for entry in json.loads((run / f"validation_{name}.json").read_text())
        }
        references = {record.image_id: list(record.captions) for record in records}
        figures[name] = score(references, captions).scores["CIDEr-D"]
        assert watch.scores[f"val/{name}/CIDEr-D"] == pytest.approx(figures[name], abs=1e-5)
        assert set(captions) == set(references)
    assert watch.scores["val/CIDEr-D"] == pytest.approx(
        (3 * figures["a"] + figures["b"]) / 4, abs=1e-5
    )
    assert last_checkpoint("runs/tiny")["global_step"] == 2 * ((18 + 12) // 8)

    vocabulary = read_checkpoint(run / "best").vocabulary
    assert vocabulary.styles == ("second",)
    captioner = Captioner.from_pretrained(run / "best", backend="torch")
    photos = [record.path for record in load_records(tmp_path / "b" / "photos.csv")]
    plain, second = captioner.caption(photos), captioner.caption(photos, style="second")
    assert [caption.log_prob for caption in plain] != [caption.log_prob for caption in second]
    card = (run / "best" / "README.md").read_text()
    assert "48 captions by a machine, 36 captions by people" in card
    assert (
        "mean CIDEr-D on the validation sets a (weight 3, 17 images), b (weight 1, 12 images)"
        in card
    )
    assert [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("| ")] == [
        "set",
        "a",
        "b",
        "mean",
    ]

    # From that checkpoint, with fewer captions and fewer images: the same encoder computes nothing
    # anew.
    again = Watch()
    more = [*options, "--model.init_from=runs/tiny/best", "--trainer.default_root_dir=again"]
    more += [
        "--data.sources.old.rank_weights=[1]",
        "--data.sources.new.leave_out=0.3",
        "--trainer.max_epochs=1",
    ]
    assert watch.encoded == 18 + 24 + 17 + 12
    assert train_with(again, more) == 0
    assert again.encoded == 0
    assert read_checkpoint("again/best").vocabulary == vocabulary


@pytest.mark.parametrize("limit", ["--trainer.limit_val_batches=2", "--trainer.fast_dev_run=1"])
def test_sets_that_a_short_validation_does_not_reach_are_left_out(limit, options, caplog):
    watch = Watch()
    assert train_with(watch, [*options, "--trainer.max_epochs=1", limit]) == 0
    assert watch.scores["val/CIDEr-D"] == watch.scores["val/a/CIDEr-D"]
    assert "val/b/CIDEr-D" not in watch.scores
    best = Path("runs/tiny/best")
    if "fast_dev_run" in limit:
        assert not best.exists()
        assert caplog.records[-1].message.startswith("This was a trial")
    else:
        table = (best / "README.md").read_text().splitlines()[-3:]
        assert [line.split("|")[1].strip() for line in table] == ["a", "b", "mean"]
        assert table[1].replace("|", "").split() == ["b"], "not scored"


@pytest.mark.slow
def test_a_run_on_two_sources_goes_on_as_if_never_interrupted(options):
    often = [*options, "--checkpoint.every_minutes=0", "--trainer.default_root_dir=broken"]
    assert main([*options, "--trainer.default_root_dir=whole"]) == 0
    with pytest.raises(RuntimeError, match="caught fire"):
        train_with(Disturb(1, 1, crash), often)
    assert main([*often, "--ckpt_path=last"]) == 0
    whole = last_checkpoint("whole")
    broken = last_checkpoint("broken")
    assert whole["global_step"] == broken["global_step"]
    for name, expected in whole["state_dict"].items():
        assert (broken["state_dict"][name] == expected).all(), name
