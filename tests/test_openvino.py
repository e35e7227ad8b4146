"""The OpenVINO backend: the numbers of ONNX Runtime in float32, faster ones in bfloat16."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import Captioner
from captioner.backends.onnx import OnnxBackend
from captioner.backends.openvino import PRECISION, OpenVinoBackend, cache_folder, precision
from captioner.checkpoint import BUNDLED, read_checkpoint
from captioner.errors import CheckpointError, ConfigError, MissingExtraError

pytest.importorskip("openvino")

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("n", [1, 4, 6])
def test_in_float32_it_computes_the_numbers_of_onnx_runtime(
    checkpoint_folder: Path, n: int
) -> None:
    size = read_checkpoint(checkpoint_folder).preprocessing.size
    pixels = np.random.default_rng(n).normal(size=(n, 3, size, size)).astype(np.float32)
    by_openvino, by_onnx = (
        kind(checkpoint_folder).encode(pixels) for kind in (OpenVinoBackend, OnnxBackend)
    )
    np.testing.assert_allclose(by_openvino.pooled, by_onnx.pooled, rtol=1e-3, atol=1e-4)
    words = np.ones((n, 1), np.int64)
    steps = [
        stepper.step(np.arange(n)[:, None], words, 3, all_log_probs=True)
        for stepper in (by_openvino, by_onnx)
    ]
    np.testing.assert_allclose(steps[0].all_log_probs, steps[1].all_log_probs, atol=1e-3)


def test_results_of_one_run_survive_the_next(checkpoint_folder: Path) -> None:
    size = read_checkpoint(checkpoint_folder).preprocessing.size
    first, second = np.random.default_rng(0).normal(size=(2, 1, 3, size, size)).astype(np.float32)
    backend = OpenVinoBackend(checkpoint_folder)
    encoded = backend.encode(first)
    before = encoded.pooled.copy()
    assert np.abs(backend.encode(second).pooled - before).max() > 0
    np.testing.assert_array_equal(encoded.again(np.array([0])).pooled, before)


def test_threads_share_a_backend(checkpoint_folder: Path) -> None:
    """As the demo's requests do."""
    size = read_checkpoint(checkpoint_folder).preprocessing.size
    batches = np.random.default_rng(0).normal(size=(4, 4, 3, size, size)).astype(np.float32)
    backend = OpenVinoBackend(checkpoint_folder)
    alone = [backend.encode(pixels).pooled for pixels in batches]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda pixels: backend.encode(pixels).pooled, [*batches] * 50))
    for number, pooled in enumerate(together):
        np.testing.assert_allclose(pooled, alone[number % 4], rtol=1e-5, atol=1e-6)


def test_in_bfloat16_the_bundled_model_says_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(PRECISION)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    photos = sorted((ROOT / "examples").glob("*.jpg"))
    backends = [OpenVinoBackend(BUNDLED), OnnxBackend(BUNDLED)]
    fit = read_checkpoint(None).preprocessing
    batch = np.stack([fit(Image.open(photo).convert("RGB")) for photo in photos])
    near, exact = (backend.encode(batch).pooled for backend in backends)
    cosine = (near * exact).sum(1) / np.linalg.norm(near, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.995
    if precision() == "bf16":
        assert np.abs(near - exact).max() > 1e-3, "it would compute in float32"


def test_the_bundled_model_is_kept_as_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_folder: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(PRECISION)
    folder = cache_folder()
    assert folder and tmp_path in folder.parents
    size = read_checkpoint(None).preprocessing.size
    pixels = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)

    def encoded() -> np.ndarray:
        return OpenVinoBackend(BUNDLED).encode(pixels).pooled

    compiled = encoded()
    (kept,) = folder.iterdir()
    np.testing.assert_array_equal(encoded(), compiled)
    content = kept.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"\0" * 4096 + content[4096:]):
        kept.chmod(0o600)
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(encoded(), compiled)
        assert kept.stat().st_size > 0.9 * len(content)
    OpenVinoBackend(checkpoint_folder, threads=1)
    assert list(folder.iterdir()) == [kept]
    kept.unlink()
    folder.rmdir()
    folder.write_bytes(b"")  # a file where the folder should be
    assert cache_folder() is None
    monkeypatch.setitem(sys.modules, "platformdirs", None)  # as if it were not installed
    assert cache_folder() is None
    np.testing.assert_array_equal(encoded(), compiled)


def test_the_command_loads_no_telemetry(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from captioner.cli import main
        assert main(sys.argv[1:]) == 0
        assert "openvino" in sys.modules and "openvino_telemetry" not in sys.modules
    """
    call = ["caption", str(ROOT / "examples" / "cat.jpg"), "--backend", "openvino"]
    result = subprocess.run(
        [sys.executable, "-c", code, *call],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr


def test_it_is_chosen_where_the_processor_computes_bfloat16(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(folder: Path = checkpoint_folder) -> str:
        return type(Captioner.from_pretrained(folder).backend).__name__

    assert chosen() == "OnnxBackend", "float32 was asked for, see conftest.py"
    monkeypatch.delenv(PRECISION)
    native = precision() == "bf16"
    assert chosen() == ("OpenVinoBackend" if native else "OnnxBackend")
    light = Path(shutil.copytree(checkpoint_folder, tmp_path / "light"))
    (light / "encoder.onnx").unlink()
    assert chosen(light) == "TorchBackend"
    monkeypatch.setenv(PRECISION, "float8")
    with pytest.raises(ConfigError, match="CAPTIONER_PRECISION is 'float8'; expected float32"):
        chosen()


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="needs Linux")
def test_it_knows_whether_the_processor_computes_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PRECISION)
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert (precision() == "bf16") == bool(flags & {"avx512_bf16", "amx_bf16"})


def test_without_openvino_the_extra_is_named(
    checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r"pip install 'captioner\[openvino\]'"):
        Captioner.from_pretrained(checkpoint_folder, backend="openvino")


def test_another_device_is_an_error(checkpoint_folder: Path) -> None:
    with pytest.raises(ConfigError, match="openvino backend runs on the CPU, not on 'cuda'"):
        Captioner.from_pretrained(checkpoint_folder, backend="openvino", device="cuda")


@pytest.mark.parametrize("damage", [b"", b"no graph", None])
def test_a_damaged_graph_is_named(
    checkpoint_folder: Path, tmp_path: Path, damage: bytes | None
) -> None:
    folder = Path(shutil.copytree(checkpoint_folder, tmp_path / "model"))
    (folder / "encoder.onnx").unlink()
    if damage is not None:
        (folder / "encoder.onnx").write_bytes(damage)
    with pytest.raises(CheckpointError, match=rf"encoder.onnx .*captioner export {folder}"):
        Captioner.from_pretrained(folder, backend="openvino")


INTERRUPTED = """
import gc, os, signal, sys
from captioner import Captioner
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
captioners = [Captioner.from_pretrained(sys.argv[1], backend="openvino") for _ in range(2)]
while captioners:
    del captioners[0]
    gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_still_works_when_captioners_are_gone(checkpoint_folder: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(checkpoint_folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout) == (0, "interrupted\n"), result.stderr
