"""Precision "auto" on pretended processors, and in runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.accelerators import CPUAccelerator

from captioner.training import precision
from captioner.training.precision import (
    AutoPrecisionTrainer,
    describe_precision,
    has_bfloat16,
    resolve_precision,
)
from captioner.training.train import main
from tests.training.runs import ROOT, SMALL, TINY

AVX2 = {"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}
# Flags as `lscpu` gives them, of Zen 4, Sapphire Rapids, Graviton 3 and M2.
PROCESSORS: list[tuple[dict[str, Any], bool]] = [
    (AVX2, False),
    ({}, False),
    ({**AVX2, "avx512_f": True, "avx512_vnni": True}, False),
    ({**AVX2, "avx512_f": True, "avx512_bf16": True}, True),
    ({**AVX2, "avx512_f": True, "amx_tile": True, "amx_bf16": True}, True),
    ({"architecture": "aarch64", "neon": True, "bf16": False}, False),
    ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
]


def pretend(monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)


@pytest.mark.parametrize(("flags", "native"), PROCESSORS)
def test_auto_is_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], native: bool
) -> None:
    pretend(monkeypatch, flags)
    assert has_bfloat16("cpu") == native
    assert resolve_precision("auto", "cpu") == ("bf16-mixed" if native else "32-true")
    assert resolve_precision("auto", CPUAccelerator()) == resolve_precision("auto", "cpu")
    assert ("natively" in describe_precision("bf16-mixed", "cpu")) == native
    assert ("emulates" in describe_precision("bf16-mixed", "cpu")) != native


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="needs Linux")
def test_this_processor_says_what_linux_says_of_it() -> None:
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert has_bfloat16("cpu") == bool(words & {"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [([(7, 5)], False), ([(8, 0)], True), ([(9, 0), (7, 0)], False), ([(12, 0), (8, 6)], True)],
)
def test_auto_is_bfloat16_where_every_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: list[tuple[int, int]], native: bool
) -> None:
    pretend(monkeypatch, AVX2)
    monkeypatch.setattr(precision.CUDAAccelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    for accelerator in ("auto", "gpu", "cuda"):
        expected = "bf16-mixed" if native else "32-true"
        assert resolve_precision("auto", accelerator) == expected
    assert resolve_precision("auto", "cpu") == "32-true"


def test_what_is_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, AVX2)
    assert [resolve_precision(each) for each in ("bf16-mixed", "16-mixed", 64, None)] == [
        "bf16-mixed",
        "16-mixed",
        64,
        None,
    ]
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    assert AutoPrecisionTrainer(precision="auto", **quiet).precision == "32-true"
    assert AutoPrecisionTrainer(precision="bf16-mixed", **quiet).precision == "bf16-mixed"
    assert AutoPrecisionTrainer(**quiet).precision == "32-true"


def test_shipped_configs_leave_the_precision_to_the_machine() -> None:
    configs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("configs/*.yaml")]
    assert {config["trainer"].get("precision", "auto") for config in configs} == {"auto"}, configs


def test_a_resumed_run_keeps_its_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    arguments = [
        f"--config={TINY}",
        *SMALL,
        "--data.draw_shapes=20",
        f"--data.cache_folder={tmp_path / 'features'}",
        f"--trainer.default_root_dir={run}",
        "--trainer.precision=auto",
        "--trainer.logger=false",
    ]

    def trained_in() -> str:
        return yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"]

    pretend(monkeypatch, AVX2)
    assert main([*arguments, "--trainer.max_epochs=1"]) == 0
    assert trained_in() == "32-true"
    assert "32-true: float32; the CPU has no native bfloat16" in (run / "train.log").read_text()
    pretend(monkeypatch, {**AVX2, "avx512_bf16": True})  # goes on on another machine
    assert main([*arguments, "--trainer.max_epochs=2", "--ckpt_path=last"]) == 0
    assert trained_in() == "32-true"
    assert main([*arguments, "--ckpt_path=last", "--trainer.precision=bf16-mixed"]) == 0
    assert trained_in() == "bf16-mixed"


@pytest.mark.parametrize("asked", ["bf16-true", "16-true", "64-true", "transformer-engine"])
def test_precisions_that_convert_the_weights_are_refused(
    asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main([f"--config={TINY}", *SMALL, f"--trainer.precision={asked}"])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert asked in said
    assert "bf16-mixed" in said
