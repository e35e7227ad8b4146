"""Annotations of clips: own tables, MSVD, MSR-VTT, VATEX."""

import json
from pathlib import Path
from typing import Any

import pytest

from captioner.annotations.records import Record, load_records
from captioner.errors import DataError
from captioner.images.clips import ClipPart


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(records: list[Record], root: Path) -> dict[str, tuple[str, ...]]:
    return {str(record.path.relative_to(root)): record.captions for record in records}


def test_a_table_of_parts_of_clips(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(
        "Clip,start,end,caption\n"
        "party.mp4,3,7.5,a man dances\n"
        "party.mp4,7.5,,everybody claps\n"
        "party.mp4,3.0,7.50,somebody dances\n"
        "dog.mp4,,,a dog barks\n"
    )
    first, second, third = load_records(tmp_path / "own.csv")
    assert first.clip == ClipPart(tmp_path / "party.mp4", 3.0, 7.5)
    assert first.captions == ("a man dances", "somebody dances")
    assert (second.start, second.end) == (7.5, None)
    assert third.clip == ClipPart(tmp_path / "dog.mp4")
    names = [record.image_id for record in (first, second, third)]
    assert names == ["party.mp4@3-7.5", "party.mp4@7.5-", "dog.mp4"]


def test_parts_of_a_long_clip_that_differ_by_little_have_different_ids(tmp_path: Path) -> None:
    rows = ["12345.12,12346,a dog", "12345.14,12346,a cat", "0.1,1234567.25,everything"]
    text = "".join(f"day.mp4,{row}\n" for row in rows)
    (tmp_path / "own.csv").write_text(f"clip,start,end,caption\n{text}")
    assert [record.image_id for record in load_records(tmp_path / "own.csv")] == [
        "day.mp4@12345.12-12346",
        "day.mp4@12345.14-12346",
        "day.mp4@0.1-1234567.25",
    ]


def test_a_part_from_the_beginning_is_one_however_its_start_is_written(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(
        "clip,start,end,caption\na.mp4,,5,a dog\na.mp4,0,5,a cat\nb.mp4,0.0,,one\nb.mp4,,,two\n"
    )
    assert {record.image_id: record.captions for record in load_records(tmp_path / "own.csv")} == {
        "a.mp4@0-5": ("a dog", "a cat"),
        "b.mp4": ("one", "two"),
    }


def test_lines_of_parts_of_clips(tmp_path: Path) -> None:
    row = {"clip": "party.mp4", "start": 3, "end": 7.5, "caption": "a man dances"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    (record,) = load_records(tmp_path / "own.jsonl")
    assert record.clip == ClipPart(tmp_path / "party.mp4", 3.0, 7.5)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("party.mp4,7,3,a man", 'line 2: "end" is 3; expected seconds, greater than'),
        ("party.mp4,0:03,7,a man", "line 2: \"start\" is '0:03'; expected seconds"),
        ("party.mp4,-1,7,a man", "expected seconds, 0 or more"),
        (",1,7,a man", 'expected "clip", the path of a clip'),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "own.csv").write_text(f"clip,start,end,caption\n{row}\n")
    with pytest.raises(DataError) as caught:
        load_records(tmp_path / "own.csv")
    assert said in str(caught.value)


MSRVTT: dict[str, Any] = {
    "info": {"year": "2016"},
    "videos": [
        {"video_id": f"video{n}", "split": split, "start time": 137.7, "end time": 149.4, "id": n}
        for n, split in enumerate(("train", "validate", "train", "test"))
    ],
    "sentences": [
        {"caption": f"caption {n}", "video_id": f"video{n % 4}", "sen_id": n} for n in range(8)
    ],
}


def test_msr_vtt_has_splits_and_cut_clips(tmp_path: Path) -> None:
    touch(tmp_path, "TrainValVideo/video0.mp4", "TrainValVideo/video2.mp4")
    path = tmp_path / "train_val_videodatainfo.json"
    path.write_text(json.dumps(MSRVTT))
    train = load_records(path, split="train", strict=True)
    assert found(train, tmp_path) == {
        "TrainValVideo/video0.mp4": ("caption 0", "caption 4"),
        "TrainValVideo/video2.mp4": ("caption 2", "caption 6"),
    }
    assert all(record.start is record.end is None for record in train)
    (val,) = load_records(path, split="val")
    assert val.image_id == "video1"
    with pytest.raises(DataError, match=r"no split given; expected one of train \(2\), val"):
        load_records(path)


def test_a_sentence_about_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "msrvtt.json"
    wrong = {**MSRVTT, "sentences": [{"caption": "a dog", "video_id": "video9"}]}
    path.write_text(json.dumps(wrong))
    with pytest.raises(DataError, match=r"sentences\[0\]: video 'video9' is not among"):
        load_records(path, split="train")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**MSRVTT, "videos": ["video0"]}, "videos[0]: expected a JSON object"),
        ({**MSRVTT, "sentences": ["a dog"]}, "sentences[0]: expected a JSON object"),
        ([{"videoID": "a_1_2", "enCap": ["a dog"]}, 7], "[1]: expected a JSON object"),
    ],
)
def test_what_is_no_object_is_named(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "clips.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        load_records(path, split="train")
    assert str(caught.value) == f"{path}, {said}"


def test_vatex_has_english_captions_and_clips_of_any_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "videos/Ptf_2VRj-V0_000122_000132.webm", "videos/other_000000_000010.mp4")
    path = tmp_path / "vatex_training_v1.0.json"
    videos = [
        {"videoID": "Ptf_2VRj-V0_000122_000132", "enCap": ["a", "b"], "chCap": ["c"]},
        {"videoID": "other_000000_000010", "enCap": ["d"], "chCap": []},
    ]
    path.write_text(json.dumps(videos))
    assert found(load_records(path), tmp_path) == {
        "videos/Ptf_2VRj-V0_000122_000132.webm": ("a", "b"),
        "videos/other_000000_000010.mp4": ("d",),
    }
    path.write_text(json.dumps([{"videoID": "other_000000_000010"}]))
    with pytest.raises(DataError, match="the private test split has none"):
        load_records(path)


def test_msvd_as_text_with_and_without_its_splits(tmp_path: Path) -> None:
    touch(tmp_path, "YouTubeClips/a-B_1_5.avi", "YouTubeClips/_c_0_9.avi")
    path = tmp_path / "AllVideoDescriptions.txt"
    path.write_text("# a header\n\na-B_1_5 a man is singing\n_c_0_9 a dog runs\na-B_1_5 he sings\n")
    everything = {
        "YouTubeClips/a-B_1_5.avi": ("a man is singing", "he sings"),
        "YouTubeClips/_c_0_9.avi": ("a dog runs",),
    }
    assert found(load_records(path), tmp_path) == everything
    (tmp_path / "youtube_mapping.txt").write_text("a-B_1_5 vid1200\n_c_0_9 vid1301\n")
    assert [record.image_id for record in load_records(path, split="train")] == ["a-B_1_5"]
    assert [record.image_id for record in load_records(path, split="test")] == ["_c_0_9"]
    with pytest.raises(DataError, match=r"no clips in split 'val'.*train \(1\), test \(1\)"):
        load_records(path, split="val")


def test_msvd_as_a_table_with_descriptions_in_many_languages(tmp_path: Path) -> None:
    path = tmp_path / "MSR Video Description Corpus.csv"
    path.write_text(
        "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"
        'a-B,1,5,1,clean,10,English,"a man, singing"\n'
        "a-B,1,5,2,clean,10,German,ein Mann singt\n"
        "a-B,1,5,3,clean,10,English,\n"
    )
    (record,) = load_records(path)
    assert (record.image_id, record.captions) == ("a-B_1_5", ("a man, singing",))
    assert record.path == tmp_path / "a-B_1_5.mp4"


def test_a_table_of_msvd_that_is_no_csv_is_named(tmp_path: Path) -> None:
    path = tmp_path / "msvd.csv"
    start = "VideoID,Start,End,Language,Description\na-B,1,5,English,a man\n"
    path.write_text(f'{start}a-B,1,5,English,"{"a man sings. " * 20_000}\n')
    with pytest.raises(DataError, match=r"msvd.csv, line 3: invalid CSV"):
        load_records(path)
