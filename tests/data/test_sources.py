"""Several sources: images per epoch, weights of captions, and styles."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from captioner.annotations.records import load_records
from captioner.checkpoint import read_checkpoint
from captioner.data.datamodule import CaptionData
from captioner.data.sources import (
    Source,
    ValidationSource,
    hold_out_validation,
    images_an_epoch,
)
from captioner.errors import ConfigError, DataError
from captioner.preprocessing import Preprocessing
from captioner.vocabulary import START
from tests.training.domains import NEW, OLD, draw_domain


@pytest.mark.parametrize(
    ("sources", "counts", "expected"),
    [
        ([{}], [7], [7]),
        ([{}, {"weight": 0.5}, {"weight": 2}], [10, 10, 3], [10, 5, 6]),
        ([{}, {"weight": 0.01}], [10, 10], [10, 1]),
        ([{}, {"share": 0.5}], [30, 1000], [30, 30]),
        ([{}, {"share": 0.25}, {"share": 0.25}], [30, 1000, 10], [30, 15, 10]),
        ([{}, {"share": 0.0}], [30, 1000], [30, 0]),
    ],
)
def test_an_epoch_has_as_many_images_of_a_source_as_its_weight_or_share_says(
    sources, counts, expected
):
    assert images_an_epoch([Source(**source) for source in sources], counts) == expected


@pytest.mark.parametrize("sources", [[{"share": 0.5}], [{}, {"share": 0.5}, {"share": 0.5}]])
def test_shares_must_leave_something(sources):
    with pytest.raises(ConfigError, match="less than 1, and at least one source with a weight"):
        images_an_epoch([Source(**source) for source in sources], [10] * len(sources))


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    """Two images of three ranked captions, not in their order; and one of people, by places."""
    folder = tmp_path / "ranked"
    draw_domain(folder, ["purple star"], 3)
    images = [
        {"id": number, "file_name": f"{number}.png", "captions_by": "a model"}
        for number in range(2)
    ]
    images.append({"id": 2, "file_name": "2.png", "captions_by": "human"})
    texts = {1: "a star", 2: "a purple star", 3: "it leans to the left"}
    said = [(image, rank, texts[rank]) for image in range(2) for rank in (3, 1, 2)]
    annotations = [
        {"id": number, "image_id": image, "caption": text, "rank": rank}
        for number, (image, rank, text) in enumerate(said)
    ]
    annotations += [{"id": 10 + k, "image_id": 2, "caption": texts[k + 1]} for k in range(2)]
    (folder / "captions.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )
    return folder / "captions.json"


def test_captions_count_by_their_rank(ranked: Path, tmp_path: Path) -> None:
    val = draw_domain(tmp_path / "val", NEW, 9)
    source = Source(
        ranked, ranked.parent, rank_weights=[1, 0.3, 0], rank_styles=["", "detailed"], style="other"
    )
    data = CaptionData(val=val, sources={"ranked": source}, min_count=1)
    train = data.training
    assert [record.captions for record in train.records] == [("a star", "a purple star")] * 3
    assert train.weights == [
        (1, 0.3),
        (1, 0.3),
        (1, 1),
    ], "what has no rank beside what has is a first caption"
    assert train.styles == [("", "detailed"), ("", "detailed"), ("", "")]
    assert "leans" not in data.vocabulary, "what is left out brings no words"
    assert data.vocabulary.styles == ("detailed",)
    assert [captions[0] for captions in data.ids["train"][0]] == [
        START,
        data.vocabulary.start("detailed"),
    ]
    assert train.captions_by == {"a model": 4, "human": 2}
    assert data.word_counts[data.vocabulary.start("detailed")] == 0

    plain = CaptionData(ranked, val, min_count=1).training
    assert [len(record.captions) for record in plain.records] == [3, 3, 2]
    assert plain.weights == [(1.0,) * 3, (1.0,) * 3, (1.0,) * 2]
    said = CaptionData(
        val=val, sources={"s": Source(ranked, captions_by="human")}, min_count=1
    ).training
    assert said.captions_by == {"human": 8}
    with pytest.raises(DataError, match="all captions have the weight 0"):
        _ = CaptionData(val=val, sources={"s": Source(ranked, rank_weights=[0, 0, 0, 1])}).records


def test_sources_stand_beside_the_simple_form_and_one_without_annotations_is_left_out(
    tmp_path: Path,
) -> None:
    new, old = draw_domain(tmp_path / "new", NEW, 9), draw_domain(tmp_path / "old", OLD, 12)
    sources = {"old": Source(old, weight=0.5, style="old", words=False), "none": Source(None)}
    data = CaptionData(new, sources=sources, held_out=0.3, min_count=1)
    assert [record.path.parent.name for record in data.records["train"]] == ["new"] * 6 + [
        "old"
    ] * 12
    assert {record.path.parent.name for record in data.records["val"]} == {"new"}
    assert [(draws.count, draws.an_epoch) for draws in data.training.draws] == [(6, 6), (12, 6)]
    assert "circle" not in data.vocabulary
    assert data.vocabulary.styles == ("old",)


def test_validation_sets_follow_one_another(tmp_path: Path) -> None:
    new, old = draw_domain(tmp_path / "new", NEW, 9), draw_domain(tmp_path / "old", OLD, 12)
    sets = {
        "b": ValidationSource(old, weight=3),
        "a": ValidationSource(new),
        "off": ValidationSource(),
    }
    data = CaptionData(new, validation=sets, min_count=1)
    assert [
        (images.name, len(images.records), images.weight) for images in data.validation_sets
    ] == [
        ("b", 12, 3),
        ("a", 9, 1),
    ]
    assert [record.path.parent.name for record in data.records["val"]] == ["old"] * 12 + ["new"] * 9


def test_mistakes_are_told(tmp_path: Path) -> None:
    new = draw_domain(tmp_path / "new", NEW, 9)
    wrong = {
        "No training data": {},
        "No validation data": {"sources": {"a": Source(new)}},
        "data.val and data.validation cannot be combined": {
            "train": new,
            "val": new,
            "validation": {"a": ValidationSource(new)},
        },
        "data.sources.a has a weight and a share": {
            "train": new,
            "sources": {"a": Source(new, weight=2, share=0.5)},
        },
        "data.sources.a.weight is 0": {"train": new, "sources": {"a": Source(new, weight=0)}},
        "data.sources.a.weight is inf": {
            "train": new,
            "sources": {"a": Source(new, weight=float("inf"))},
        },
        "data.seed is -1": {"train": new, "seed": -1},
        "data.sources.a.rank_weights is": {
            "train": new,
            "sources": {"a": Source(new, rank_weights=[0, 0])},
        },
        "data.validation.a.weight is -1": {
            "train": new,
            "validation": {"a": ValidationSource(new, weight=-1)},
        },
        "the weight 0; expected at least one above 0": {
            "train": new,
            "validation": {"a": ValidationSource(new, weight=0)},
        },
        "validation set: 'a/b'": {"train": new, "validation": {"a/b": ValidationSource(new)}},
    }
    for said, options in wrong.items():
        with pytest.raises(ConfigError, match=said):
            CaptionData(**options)
    data = CaptionData(new, validation={"a": ValidationSource(new, style="coco")}, min_count=1)
    with pytest.raises(ConfigError, match="There is no style 'coco'"):
        _ = data.vocabulary
    silent = CaptionData(val=new, sources={"a": Source(new, words=False)}, min_count=1)
    with pytest.raises(ConfigError, match="No source brings words"):
        _ = silent.vocabulary
    with pytest.raises(DataError, match=r"leave_out 0\.99 leaves none of its 9 images"):
        _ = CaptionData(new, new, leave_out=0.99).records


def test_nouns_of_tags_belong_to_the_vocabulary_however_rare(ranked: Path, tmp_path: Path) -> None:
    val = draw_domain(tmp_path / "val", NEW, 9)
    plain, tagged = (
        CaptionData(ranked, val, min_count=1, tag_words=tag_words).vocabulary
        for tag_words in (False, True)
    )
    assert "goldfish" not in plain
    assert tagged.words[: len(plain)] == plain.words
    assert {"goldfish", "beaver"} <= set(tagged.words[len(plain) :])
    assert not [word for word in tagged.words if " " in word]


def test_a_preprocessing_that_the_initial_checkpoint_overrides_is_told(
    checkpoint_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = draw_domain(tmp_path / "new", NEW, 9)
    own = read_checkpoint(checkpoint_folder).preprocessing
    for preprocessing, told in (
        (Preprocessing(), 0),
        (own, 0),
        (replace(own, size=own.size + 32), 1),
    ):
        caplog.clear()
        data = CaptionData(new, preprocessing=preprocessing, init_from=str(checkpoint_folder))
        assert data.preprocessing == own
        assert caplog.text.count("data.preprocessing is ignored") == told


def test_parts_of_a_clip_are_held_out_together(tmp_path: Path) -> None:
    """What is a leak for photos is one for parts of a clip, which look alike."""
    rows = [f"day {n // 5}.mp4,{n % 5},{n % 5 + 1},a dog" for n in range(50)]
    table = tmp_path / "parts.csv"
    table.write_text("\n".join(["clip,start,end,caption", *rows]))
    records = load_records(table)
    train, val = hold_out_validation(table, records, 0.2)
    assert len(val) == 10
    assert not {record.path for record in train} & {record.path for record in val}
    with pytest.raises(DataError, match=r"all parts of a clip stay together \(clips: 1\)"):
        hold_out_validation(table, records[:5], 0.2)


def test_a_source_that_is_drawn_like_a_text_can_be_left_out(tmp_path: Path) -> None:
    for name, kinds in (("old", OLD), ("new", NEW)):
        draw_domain(tmp_path / name, kinds, 4)
    text = tmp_path / "text.txt"
    text.write_text("a red square\n")
    new = Source(tmp_path / "new" / "photos.csv", share=0.0, like=text)
    old = tmp_path / "old" / "photos.csv"
    data = CaptionData(old, old, sources={"new": new}, min_count=1)
    assert [draws.an_epoch for draws in data.training.draws] == [len(load_records(old)), 0]
