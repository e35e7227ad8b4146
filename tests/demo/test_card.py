"""Facts from model cards."""

from captioner.checkpoint import describe, read_checkpoint
from captioner.demo.card import read_card


def written(folder, text):
    (folder / "README.md").write_text(text, encoding="utf-8")
    architecture = {"encoder": {"name": "resnet50"}, "decoder": {"name": "up_down"}}
    return read_card({"folder": str(folder), "architecture": architecture, "words": 1234})


def test_the_bundled_model_says_what_it_is_and_how_good():
    card = read_card(describe(read_checkpoint()))
    assert "Flickr8k" in card.title
    assert any("21,363 images" in fact for fact in card.facts)
    scores = dict(card.scores)
    assert list(scores)[:4] == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
    assert f"| {scores['BLEU-1']} |" in card.text
    assert "Validation" in card.scored


def test_a_card_of_another_form_still_names_the_model(tmp_path):
    card = written(tmp_path, "A model that I made.\n")
    assert card.title == "resnet50 and up_down"
    assert card.facts == ("1,234 words",)
    assert card.scores == ()


def test_a_missing_card_is_no_error(tmp_path):
    architecture = {"encoder": {"name": "resnet50"}, "decoder": {"name": "up_down"}}
    card = read_card({"folder": str(tmp_path), "architecture": architecture, "words": 2})
    assert (card.text, card.title) == ("", "resnet50 and up_down")


def test_a_card_cannot_bring_images_or_html_onto_the_page(tmp_path):
    card = written(
        tmp_path,
        "# Mine\n\n![x](http://example.com/x.png) <img src=http://example.com/y> <script>\n",
    )
    assert "![" not in card.text
    assert "<" not in card.text


def test_a_fact_may_take_several_lines(tmp_path):
    card = written(tmp_path, "# Mine\n\n## Facts\n\n- Small,\n  and quick.\n- Good.\n\nMore.\n")
    assert card.facts == ("Small, and quick", "Good")
