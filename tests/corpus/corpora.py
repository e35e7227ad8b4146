"""Small corpora of drawn pictures, in every layout that `captioner corpus` reads."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from captioner.corpus.inputs import plan
from captioner.corpus.output import PARTS, OutputFolder, Run
from captioner.corpus.storage import locate
from captioner.corpus.worker import Work, Worker

NO_RUN = Run("input", "auto", 1000, None, (), {})


def jpeg(number: int) -> bytes:
    """A picture of coloured squares, another for each number."""
    squares = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(squares).resize((80, 64), Image.Resampling.NEAREST).save(file, "JPEG")
    return file.getvalue()


def write_folder(folder: Path, numbers: Iterable[int]) -> list[Path]:
    """A folder tree of pictures, in the order in which it is read."""
    paths = [folder / f"{number // 4}" / f"{number:04}.jpg" for number in numbers]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(int(path.stem)))
    return paths


def write_shard(path: Path, images: dict[str, bytes]) -> Path:
    """A shard as img2dataset writes it: picture, text and facts of each sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, content in images.items():
            facts = json.dumps({"key": key, "status": "success"}).encode()
            for suffix, data in (("jpg", content), ("txt", b"words"), ("json", facts)):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def write_table(path: Path, columns: dict[str, list[object]], rows_a_group: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows_a_group)
    return path


def rows_of(output: Path | str) -> list[dict[str, object]]:
    """All rows of an output folder, a path or URL, in order."""
    system, path = locate(str(output))
    rows: list[dict[str, object]] = pq.read_table(f"{path}/{PARTS}", filesystem=system).to_pylist()
    return rows


def work_of(output: Path | str, model: Path | None = None, image_column: str | None = None) -> Work:
    models = None if model is None else [str(model)]
    return Work(str(output), models, "onnx", None, 8, image_column, {"beam_size": 2})


def caption_here(source: object, output: Path | str, **options: object) -> list[dict[str, object]]:
    """Caption a corpus in this process, without Ray; its rows."""
    folder = OutputFolder(str(output), NO_RUN)
    folder.start(plan(str(source), **options))  # type: ignore[arg-type]
    worker = Worker(work_of(output))
    for number, block in folder.blocks():
        folder.finish(number, worker.caption(number, block))
    return rows_of(output)
