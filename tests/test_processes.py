"""A captioner in other processes: forked, in pools, pickled, copied."""

import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

import captioner as package
from captioner.backends.torch import TorchBackend
from captioner.decoding import DecodingOptions
from captioner.errors import CheckpointError, ConfigError, MissingExtraError
from captioner.inference import Captioner

Picture = Callable[[int], Image.Image]
NEEDS_OPENVINO = pytest.mark.skipif(not find_spec("openvino"), reason="needs openvino")


@pytest.fixture(scope="module")
def pictures(picture: Picture) -> list[Image.Image]:
    return [picture(number) for number in range(3)]


@pytest.fixture(scope="module")
def on_torch(checkpoint_folder: Path) -> Captioner:
    return Captioner.from_pretrained(checkpoint_folder, backend="torch")


FORKED = """
import gc, os, signal, sys
from captioner import Captioner
captioner = Captioner.from_pretrained(sys.argv[1], backend=sys.argv[2])
# texts only, because the last digits of numbers depend on threads
say = lambda: [caption.text for caption in captioner.caption([sys.argv[3]] * 5)]
before = say()
child = os.fork()
if not child:
    signal.alarm(60)  # or it would hang for ever
    if sys.argv[4] != "idle":
        assert say() == before
    if sys.argv[4] == "freed":
        del captioner
        gc.collect()
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert say() == before
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("backend", "then"),
    [
        ("onnx", "idle"),
        ("onnx", "captioned"),
        ("onnx", "freed"),
        pytest.param("openvino", "freed", marks=NEEDS_OPENVINO),
        pytest.param("torch", "captioned", marks=pytest.mark.slow),
    ],
)
def test_a_forked_process_captions_and_ends(
    checkpoint_folder: Path, tmp_path: Path, picture: Picture, backend: str, then: str
) -> None:
    path = tmp_path / "image.png"
    picture(0).save(path)
    command = [sys.executable, "-c", FORKED, str(checkpoint_folder), backend, str(path), then]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(Path(package.__file__).parents[1])
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "7"), result.stderr


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, copy.copy, lambda given: pickle.loads(pickle.dumps(given))]
)
@pytest.mark.parametrize(
    "backend", ["onnx", pytest.param("openvino", marks=NEEDS_OPENVINO), "torch", "both"]
)
def test_a_captioner_is_copied_and_pickled(
    checkpoint_folder: Path,
    pictures: list[Image.Image],
    backend: str,
    duplicate: Callable[[Captioner], Captioner],
) -> None:
    if backend == "both":
        original = Captioner.from_pretrained([checkpoint_folder, checkpoint_folder])
    else:
        original = Captioner.from_pretrained(checkpoint_folder, backend=backend)  # type: ignore[arg-type]
    original.decoding = DecodingOptions(beam_size=2, max_length=5)
    other = duplicate(original)
    assert type(other.backend) is type(original.backend)
    assert (other.decoding, other.vocabulary) == (original.decoding, original.vocabulary)
    assert other.caption(pictures) == original.caption(pictures)


SENT_FROM_ELSEWHERE = """
import copy, os, pickle, sys
from captioner import Captioner
captioner = Captioner.from_pretrained("model", backend=sys.argv[1])
os.chdir("/")
copy.deepcopy(captioner)
pickle.loads(pickle.dumps(captioner))
child = os.fork()
if not child:
    captioner.caption(sys.argv[2])
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_captioner_finds_its_folder_after_the_process_has_changed_its_own(
    checkpoint_folder: Path, tmp_path: Path, picture: Picture, backend: str
) -> None:
    shutil.copytree(checkpoint_folder, tmp_path / "model")
    path = tmp_path / "image.png"
    picture(0).save(path)
    result = subprocess.run(
        [sys.executable, "-c", SENT_FROM_ELSEWHERE, backend, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout.strip()) == (0, "7"), result.stderr


def test_a_pickled_captioner_names_its_folder_from_anywhere(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint_folder, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Captioner.from_pretrained("model"))
    monkeypatch.chdir("/")
    assert len(data) < 100_000, "the weights stay in their folder"
    pickle.loads(data)
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"model does not exist"):
        pickle.loads(data)


def test_processes_of_a_pool_take_a_captioner(
    captioner: Captioner, tmp_path: Path, picture: Picture
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(captioner.caption, paths).result(120) == captioner.caption(paths)


def test_a_live_model_is_copied_but_says_why_it_cannot_be_pickled(on_torch: Captioner) -> None:
    assert isinstance(on_torch.backend, TorchBackend)
    live = Captioner(
        TorchBackend(on_torch.backend.model),
        on_torch.vocabulary,
        on_torch.preprocessing,
        on_torch.decoding,
    )
    assert isinstance(copy.deepcopy(live), Captioner)
    with pytest.raises(ConfigError, match="in training cannot be sent to another process"):
        pickle.dumps(live)


def test_errors_are_pickled() -> None:
    error = pickle.loads(pickle.dumps(MissingExtraError("The demo", "demo")))
    assert (str(error), error.extra) == (str(MissingExtraError("The demo", "demo")), "demo")
