"""Runs that are interrupted, killed or out of disk lose nothing, and resume exactly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from captioner.training.train import main
from tests.training.runs import ROOT, SMALL, TINY, full_disk, last_checkpoint, train_with, weights

# Averaged weights, and three of everything random.
OPTIONS = [
    f"--config={TINY}",
    *SMALL,
    "--trainer.logger=false",
    "--model.decoding={beam_size: 1, max_length: 8}",
    "--trainer.max_epochs=3",
    "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging",
    "--model.scheduled_sampling=0.3",
    "--data.augmentation.crop=0.7",
]
FROZEN, TUNED = "frozen, cached features", "frozen, then fine-tuned, in a worker"
STAGES = {
    FROZEN: [],
    "frozen, images": ["--data.cache_features=0"],
    TUNED: [
        "--model.finetune={stages: [blocks.4], from_epoch: 1}",
        "--data.workers=1",
    ],
    "fine-tuned, gradients accumulated": [
        "--model.finetune.stages=[blocks.4]",
        "--trainer.accumulate_grad_batches=2",
    ],
}


class Disturb(Callback):
    """Does something after a step of an epoch, or at its validation."""

    def __init__(self, epoch, step, disturb):
        self.when, self.disturb = (epoch, step), disturb

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.when:
            self.disturb()

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if (trainer.current_epoch, "validation", batch_idx) == (
            *self.when,
            0,
        ) and not trainer.sanity_checking:
            self.disturb()


def send(number):
    return lambda: os.kill(os.getpid(), number)


def crash():
    raise RuntimeError("the machine caught fire")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The checkpoint of an uninterrupted run of each stage, each run once."""
    runs = {}

    def checkpoint(stage):
        if stage not in runs:
            runs[stage] = str(tmp_path_factory.mktemp("whole") / "run")
            assert (
                main([*OPTIONS, *STAGES[stage], f"--trainer.default_root_dir={runs[stage]}"]) == 0
            )
        return last_checkpoint(runs[stage])

    return checkpoint


def assert_same(expected, run: str) -> None:
    state = last_checkpoint(run)
    assert state["global_step"] == expected["global_step"]
    for key in ("state_dict", "current_model_state"):
        assert state[key].keys() == expected[key].keys()
        for name in state[key]:
            assert torch.equal(state[key][name], expected[key][name]), (key, name)


@pytest.fixture(autouse=True)
def _heed_signals():
    """Whatever started the tests may ignore Ctrl-C."""
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_two_epochs_and_a_resume_equal_three_in_one_go(uninterrupted, caplog):
    options = [*OPTIONS, *STAGES[TUNED], "--trainer.default_root_dir=parts"]
    assert train_with(Stop(after=2), options) == 0
    assert last_checkpoint("parts")["epoch"] == 1
    assert main([*options, "--ckpt_path=last"]) == 0
    assert_same(uninterrupted(TUNED), "parts")
    assert "3 of 5 steps, 15 in all, beginning in epoch 2\n" in caplog.text


@pytest.mark.parametrize("length", [[], ["--trainer.max_steps=15"]])
def test_a_run_resumed_after_epochs_without_validation_misses_no_step(
    length, uninterrupted, caplog
):
    options = [*OPTIONS, "--trainer.limit_val_batches=0", "--trainer.default_root_dir=parts"]
    assert train_with(Stop(after=1), [*options, *length]) == 0
    options += [*length, "--ckpt_path=last"]
    assert train_with(Stop(after=2), options) == 0
    assert last_checkpoint("parts")["global_step"] == 10
    assert main(options) == 0
    assert_same(uninterrupted(FROZEN), "parts")
    assert [f"beginning in epoch {epoch}" in caplog.text for epoch in range(4)] == [
        *(False, True, True, False)
    ]


class Stop(Callback):
    """Ends a run, whose learning rate is planned for more epochs, after some."""

    def __init__(self, after):
        self.after = after

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.after


@pytest.mark.parametrize(
    ("stage", "number", "status"),
    [
        (FROZEN, signal.SIGINT, 130),
        (TUNED, signal.SIGTERM, 143),
        *(
            pytest.param(stage, signal.SIGINT, 130, marks=pytest.mark.slow)
            for stage in STAGES
            if stage != FROZEN
        ),
    ],
)
def test_a_signal_in_the_middle_of_an_epoch_saves_and_the_run_goes_on_as_if_it_had_not_come(
    stage, number, status, uninterrupted
):
    options = [*OPTIONS, *STAGES[stage], "--trainer.default_root_dir=parts"]
    with pytest.raises(SystemExit) as exit_:
        train_with(Disturb(1, 1, send(number)), options)
    assert exit_.value.code == status
    assert last_checkpoint("parts")["epoch"] == 1
    assert last_checkpoint("parts")["global_step"] < uninterrupted(stage)["global_step"] / 3 * 2
    assert main([*options, "--ckpt_path=last"]) == 0
    assert_same(uninterrupted(stage), "parts")


@pytest.mark.parametrize(
    "when",
    [
        (1, 2),
        (1, "validation"),
        *(pytest.param(when, marks=pytest.mark.slow) for when in ((1, 3), (1, 4), (2, 4))),
    ],
)
def test_a_crash_costs_only_what_came_after_the_last_checkpoint(when, uninterrupted):
    options = [*OPTIONS, "--checkpoint.every_minutes=0", "--trainer.default_root_dir=parts"]
    with pytest.raises(RuntimeError, match="fire"):
        train_with(Disturb(*when, crash), options)
    assert main([*options, "--ckpt_path=last"]) == 0
    assert_same(uninterrupted(FROZEN), "parts")
    assert "Epoch 1: BLEU-1" in Path("parts/train.log").read_text(), "no validation was left out"


def test_a_validation_amid_accumulated_gradients_is_not_resumed_from(uninterrupted):
    """No checkpoint holds gradients: those of the first batches of a step would be lost."""
    stage = "fine-tuned, gradients accumulated"
    options = [*OPTIONS, *STAGES[stage], "--trainer.val_check_interval=3"]
    options += ["--trainer.default_root_dir=parts"]
    with pytest.raises(RuntimeError, match="caught fire"):
        train_with(Disturb(1, 3, crash), options)
    assert main([*options, "--ckpt_path=last"]) == 0
    assert_same(uninterrupted(stage), "parts")


def test_a_run_resumed_with_more_steps_has_the_rest_of_the_epoch():
    options = [*OPTIONS, "--trainer.max_epochs=1", "--trainer.default_root_dir=parts"]
    assert main([*options, "--trainer.max_steps=2"]) == 0
    assert main([*options, "--ckpt_path=last"]) == 0
    assert last_checkpoint("parts")["global_step"] == 5


def test_a_signal_in_a_validation_lets_it_finish_first(uninterrupted):
    options = [*OPTIONS, "--trainer.default_root_dir=parts"]
    with pytest.raises(SystemExit):
        train_with(Disturb(1, "validation", send(signal.SIGTERM)), options)
    assert "Epoch 1: BLEU-1" in Path("parts/train.log").read_text()
    assert main([*options, "--ckpt_path=last"]) == 0
    assert_same(uninterrupted(FROZEN), "parts")


def test_a_long_validation_is_stopped_and_comes_anew(uninterrupted, monkeypatch):
    monkeypatch.setattr("captioner.training.checkpoints.PATIENCE", 0)
    options = [*OPTIONS, "--trainer.default_root_dir=parts"]
    with pytest.raises(SystemExit) as exit_:
        train_with(Disturb(1, "validation", send(signal.SIGTERM)), options)
    assert exit_.value.code == 143
    assert "Epoch 1: BLEU-1" not in Path("parts/train.log").read_text()
    assert main([*options, "--ckpt_path=last"]) == 0
    assert_same(uninterrupted(FROZEN), "parts")


class DisturbAround(Callback):
    """Does something before the first step or after the last."""

    def __init__(self, hook, disturb):
        setattr(self, hook, lambda *_: disturb())


@pytest.mark.parametrize(
    ("hook", "number", "status"),
    [
        ("on_sanity_check_start", signal.SIGTERM, 143),
        ("on_sanity_check_start", signal.SIGINT, 130),
        ("on_train_end", signal.SIGTERM, 143),
    ],
)
def test_a_signal_before_the_first_step_or_after_the_last_ends_the_run_at_once(
    hook, number, status, caplog
):
    options = [*OPTIONS, "--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=1"]
    with pytest.raises(SystemExit) as exit_:
        train_with(DisturbAround(hook, send(number)), options)
    assert exit_.value.code == status
    assert "The best model is in" not in caplog.text
    ended = hook == "on_train_end"
    assert Path("runs/tiny/checkpoints/last.ckpt").exists() == ended
    assert ("last.ckpt is saved" if ended else "nothing is saved yet") in caplog.text


def test_a_second_signal_does_not_wait_for_the_step():
    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    with pytest.raises(SystemExit):
        train_with(Disturb(0, 1, twice), OPTIONS)
    assert not Path("runs/tiny/checkpoints/last.ckpt").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(uninterrupted):
    options = [*OPTIONS, "--checkpoint.every_minutes=0", "--trainer.default_root_dir=parts"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/train.py"), *options], stderr=subprocess.DEVNULL
    )
    while not Path("parts/checkpoints/last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert main([*options, "--ckpt_path=last"]) == 0
    assert_same(uninterrupted(FROZEN), "parts")


@pytest.mark.slow
def test_a_signal_to_the_whole_group_saves_although_it_reaches_the_loading_processes_too():
    command = [
        sys.executable,
        str(ROOT / "scripts/train.py"),
        *OPTIONS,
        "--trainer.max_epochs=500",
        "--data.workers=1",
    ]
    process = subprocess.Popen(
        [*command, "--data.cache_features=0"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    log = Path("runs/tiny/train.log")
    while not (log.is_file() and "Epoch 1:" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 143
    assert "last.ckpt is saved" in log.read_text()
    assert last_checkpoint("runs/tiny")["epoch"] >= 1


@pytest.fixture(scope="module")
def finished_epoch(tmp_path_factory):
    """What a run of one epoch leaves, with its data."""
    folder = tmp_path_factory.mktemp("epoch")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*OPTIONS, "--trainer.max_epochs=1"]) == 0
    return folder


@pytest.fixture
def one_epoch(finished_epoch, _in_an_empty_folder):
    """A copy of it, in the folder where the test runs."""
    shutil.copytree(finished_epoch, ".", dirs_exist_ok=True)


@pytest.mark.usefixtures("one_epoch")
def test_a_checkpoint_that_was_cut_short_is_not_taken_for_the_last_one(caplog):
    last, best = (Path("runs/tiny/checkpoints") / f"{name}.ckpt" for name in ("last", "best"))
    assert last.stat().st_size == best.stat().st_size
    os.truncate(last, last.stat().st_size // 2)
    assert main([*OPTIONS, "--trainer.max_epochs=2", "--ckpt_path=last"]) == 0
    assert f"{last} is damaged" in caplog.text
    assert last_checkpoint("runs/tiny")["epoch"] == 1

    for path in (last, best):
        os.truncate(path, path.stat().st_size // 2)
    assert main([*OPTIONS, "--ckpt_path=last"]) == 2
    assert "has no intact checkpoint" in caplog.records[-1].message
    assert main([*OPTIONS, f"--ckpt_path={last}"]) == 2
    assert "is missing or damaged" in caplog.records[-1].message


@pytest.mark.usefixtures("one_epoch")
def test_a_full_disk_stops_with_a_message_and_leaves_the_checkpoint_before_whole(caplog):
    before = weights("runs/tiny")
    with full_disk(Path("runs/tiny/checkpoints/last.ckpt").stat().st_size // 2):
        assert main([*OPTIONS, "--ckpt_path=last"]) == 2
    said = caplog.records[-1].message
    assert "cannot be written" in said
    assert "The previous checkpoint is intact" in said
    assert not list(Path("runs/tiny/checkpoints").glob("*.tmp"))
    assert all(torch.equal(before[name], after) for name, after in weights("runs/tiny").items())


@pytest.mark.parametrize(
    ("options", "step"),
    [
        (["--trainer.max_steps=3"], 3),
        (["--trainer.limit_val_batches=0"], 15),
        (["--trainer.check_val_every_n_epoch=2"], 15),
    ],
)
def test_what_ends_without_a_validation_is_saved_all_the_same(options, step):
    assert main([*OPTIONS, *options]) == 0
    assert last_checkpoint("runs/tiny")["global_step"] == step


@pytest.mark.usefixtures("one_epoch")
def test_a_run_whose_folder_was_moved_remembers_its_best():
    os.rename("runs/tiny", "moved")
    assert main([*OPTIONS, "--trainer.default_root_dir=moved", "--ckpt_path=last"]) == 0
    (callback,) = (
        state
        for name, state in last_checkpoint("moved")["callbacks"].items()
        if name.startswith("RunCheckpoints")
    )
    assert callback["best_model_path"] == str(Path("moved/checkpoints/best.ckpt"))
    assert not Path("runs/tiny").exists()


def test_other_batches_in_the_middle_of_an_epoch_and_another_network_are_refused(caplog):
    with pytest.raises(SystemExit):
        train_with(Disturb(1, 1, send(signal.SIGINT)), OPTIONS)
    config = Path("runs/tiny/config.yaml").read_text()
    for option, said in (
        ("--data.batch_size=4", "with 8 images per step"),
        ("--model.decoder.hidden_size=64", "Architecture mismatch"),
        ("--model.finetune.stages=[blocks.4]", "Architecture mismatch"),
    ):
        assert main([*OPTIONS, option, "--ckpt_path=last"]) == 2
        assert said in caplog.records[-1].message
    assert Path("runs/tiny/config.yaml").read_text() == config
    torch.save({"no": "run"}, "foreign.ckpt")
    assert main([*OPTIONS, "--ckpt_path=foreign.ckpt"]) == 2
    assert "is not a training checkpoint" in caplog.records[-1].message


# --- Options that a resumed run does not heed ---


def test_options_that_a_resumed_run_cannot_heed_are_named_with_both_values_and_change_nothing(
    uninterrupted, caplog
):
    options = [*OPTIONS, "--trainer.default_root_dir=parts"]
    with pytest.raises(SystemExit):
        train_with(Disturb(1, 1, send(signal.SIGTERM)), options)
    caplog.clear()
    other = {
        "model.learning_rate": ("0.003", "0.5"),
        "model.weight_decay": ("0.01", "0.3"),
        "model.finetune.learning_rate": ("1e-05", "0.2"),
        "model.init_from": ("null", "bundled"),
    }
    heeded = ["--checkpoint.every_minutes=7", "--model.samples=1"]
    assert (
        main(
            [
                *options,
                *heeded,
                *(f"--{name}={now}" for name, (_, now) in other.items()),
                "--ckpt_path=last",
            ]
        )
        == 0
    )
    told = [
        record.getMessage()
        for record in caplog.records
        if "a resumed run keeps" in record.getMessage()
    ]
    assert len(told) == len(other), told
    for name, (was, now) in other.items():
        assert any(
            f"{name} is {now} now and was {was} when the run began" in line for line in told
        ), (name, told)
    assert_same(uninterrupted(FROZEN), "parts")
    saved = yaml.safe_load(Path("parts/config.yaml").read_text())
    assert saved["model"]["learning_rate"] == 0.003, "what holds is kept"
    assert saved["checkpoint"]["every_minutes"] == 7


def test_scores_of_another_validation_do_not_count_any_more(caplog):
    def longest() -> int:
        config = json.loads(Path("longer/best/config.json").read_text())
        return config["decoding"]["max_length"]

    options = [*OPTIONS, "--trainer.default_root_dir=longer"]
    assert main([*options, "--trainer.max_epochs=1"]) == 0
    options.append("--ckpt_path=last")
    assert main([*options, "--trainer.max_epochs=2"]) == 0
    assert "Validation has changed" not in caplog.text
    assert longest() == 8
    # captions of one word score lower than any before
    options.append("--model.decoding={beam_size: 1, max_length: 1}")
    assert main([*options, "--trainer.max_epochs=3"]) == 0
    assert "Validation has changed" in caplog.text
    assert longest() == 1
