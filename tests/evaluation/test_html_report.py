"""The HTML report, parsed and used in a real browser."""

import base64
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.evaluation.charts import ticks
from captioner.evaluation.findings import Comparison, Difference, Evaluation, Group
from captioner.evaluation.html_report import write_page
from captioner.evaluation.metric import Measured
from captioner.evaluation.report_view import THUMBNAIL
from captioner.tokenizer import tokenize
from tests.browser import chromium, console_errors, requested_urls

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")
VOID = {"meta", "img", "br", "input"}
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><!-- & &amp; &#60;",
    "a\u2028b\u2029c\x00",
    "half of a pair \ud83d",
    "]]></style></svg></title></p>",
    "$title ${style}",
    "{{ title }} {% endif %} {# style #}",
)


def make_evaluation(
    images: int = 30,
    *,
    rich: bool = True,
    text: Callable[[int], str] = lambda number: f"a dog number {number}",
) -> Evaluation:
    """An evaluation with random scores whose texts come from `text`; a rich one has all parts."""
    random = np.random.default_rng(3)
    per_image = {
        name: random.random(images) ** 2 * (3 if name == "CIDEr-D" else 1) for name in METRICS
    }
    scores = {name: float(values.mean()) for name, values in per_image.items()}
    intervals = {name: (0.9 * value, 1.1 * value) for name, value in scores.items()}
    differences = {
        name: Difference(value - 0.01, 0.01, (-0.002, 0.022), 0.0004)
        for name, value in scores.items()
    }
    return Evaluation(
        scores=scores,
        intervals=intervals if rich else {},
        per_image=per_image,
        image_ids=tuple(text(number) for number in range(images)) if rich else tuple(range(images)),
        captions=tuple(text(number) for number in range(images)),
        references=tuple((text(number), text(number + 1)) for number in range(images)),
        paths=(None,) * images,
        health={"distinct-1": 0.123456, "vocabulary": 1234} if rich else {},
        groups=(Group(text(0), 7, scores), Group(text(1), 5, scores)) if rich else (),
        comparison=Comparison(text(2), differences) if rich else None,
        title=text(3),
        annotated=images + 5 if rich else images,
    )


class Page(HTMLParser):
    """What a parser finds in a page; it must be well nested."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}  # by element and class: "p.caption"
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        name = f"{tag}.{attributes['class']}" if attributes.get("class") else tag
        self.texts.setdefault(name, []).append("")
        if tag not in VOID:
            self.open.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().split(".")[0] == tag

    def handle_data(self, data: str) -> None:
        for name in self.open[-1:]:
            self.texts[name][-1] += data

    @property
    def data(self) -> dict[str, list[list[object]]]:
        scripts = [attributes for tag, attributes in self.elements if tag == "script"]
        assert [attributes.get("type") for attributes in scripts] == ["application/json", None]
        return json.loads(self.texts["script"][0])  # type: ignore[no-any-return]

    def thumbnails(self) -> list[Image.Image]:
        sources = (attributes["src"] for tag, attributes in self.elements if tag == "img")
        return [
            Image.open(BytesIO(base64.b64decode(source.split("base64,")[1]))) for source in sources
        ]


def write(folder: Path, evaluation: Evaluation, shown: int = 12) -> Page:
    write_page(folder / "report.html", evaluation, shown=shown)
    return Page(folder / "report.html")


def outline(page: Page) -> list[tuple[str, set[str]]]:
    """Elements and their attributes' names; the number of drawings depends on caption lengths."""
    drawn = ("rect", "line", "text", "title")
    return [(tag, set(attributes)) for tag, attributes in page.elements if tag not in drawn]


def visible(text: str) -> str:
    """What becomes of a text that UTF-8 or HTML cannot hold."""
    return text.replace("\ud83d", "?").strip()


def test_nothing_on_the_page_refers_to_anything_outside(tmp_path: Path) -> None:
    page = write(tmp_path, make_evaluation())
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "use", "image"}
        for name, value in attributes.items():
            assert not re.search(r"(?i)(https?|wss?|ftp):|^\s*//|url\(", value), (
                f"{tag} {name}={value}"
            )
            assert name not in {"href", "src"} or value.startswith(("#", "data:image/jpeg;base64,"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?i)https?:|wss?:|['\"(]//|@import|url\(|import\(|fetch\(|XMLHttp", text)
    policy = next(
        attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes
    )
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    harmless = write(tmp_path, make_evaluation())
    evaluation = make_evaluation(text=lambda number: HOSTILE[number % len(HOSTILE)])
    page = write(tmp_path, evaluation)
    assert outline(page) == outline(harmless)
    assert page.texts["title"][0] == page.texts["h1"][0] == visible(evaluation.title)
    assert set(page.texts["p.caption"]) == {visible(text) for text in HOSTILE}
    for row, image_id, caption, references in zip(
        page.data["rows"],
        evaluation.image_ids,
        evaluation.captions,
        evaluation.references,
        strict=True,
    ):
        assert row[:3] == [image_id, caption, list(references)]


def test_scores_intervals_and_differences_are_shown_times_100(tmp_path: Path) -> None:
    evaluation = make_evaluation()
    page = write(tmp_path, evaluation)
    assert page.texts["td.number strong"][:6] == [
        f"{100 * value:.1f}" for value in evaluation.scores.values()
    ]
    low, high = evaluation.intervals["CIDEr-D"]
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in page.texts["td.number quiet"]
    assert page.texts["td.number strong"][6:] == ["+1.0"] * 6
    assert page.texts["td.number quiet"].count("[\u22120.2, 2.2]") == 6
    assert page.texts["td.number"].count("< 0.001") == 6
    assert page.texts["dd"] == ["0.123", "1,234"]


def test_the_table_of_images_holds_every_score(tmp_path: Path) -> None:
    evaluation = make_evaluation()
    data = write(tmp_path, evaluation).data
    assert data["columns"] == ["Image", "Caption", *METRICS]
    expected = np.transpose([100 * evaluation.per_image[name] for name in METRICS])
    np.testing.assert_allclose([row[3] for row in data["rows"]], expected, atol=0.00501)


def test_the_bars_of_the_histograms_count_the_images(tmp_path: Path) -> None:
    lengths = [0, 1, 1, 3, 39, 40, 41, 300] + [7] * 22
    evaluation = make_evaluation(text=lambda number: "dog " * lengths[number % len(lengths)])
    bars = [title.split(": ") for title in page_bars(write(tmp_path, evaluation))]
    points = {name: int(count) for name, count in bars if " to " in name}
    for name, count in points.items():
        low, high = map(float, name.split(" to "))
        scores = 100 * evaluation.per_image["CIDEr-D"]
        assert count == int(((low <= scores) & (scores < high)).sum()), name
    assert sum(points.values()) == len(lengths)
    words = {name: int(count) for name, count in bars if " to " not in name and count != "0"}
    expected = Counter(len(tokenize(caption)) for caption in evaluation.captions)
    assert words.pop("40 or more") == expected.pop(40) + expected.pop(41) + expected.pop(300)
    assert words == {str(length): count for length, count in expected.items()}


def page_bars(page: Page) -> list[str]:
    return page.texts["title"][1:]  # the first is the page's own, the others stand in the drawings


def test_best_and_worst_images_are_those_with_the_highest_and_lowest_cider_d(
    tmp_path: Path,
) -> None:
    evaluation = make_evaluation(images=9)
    order = np.argsort(evaluation.per_image["CIDEr-D"])
    captions = [evaluation.captions[index] for index in order]
    assert write(tmp_path, evaluation, shown=3).texts["p.caption"] == [
        *captions[:-4:-1],
        *captions[:3],
    ]
    assert sorted(write(tmp_path, evaluation).texts["p.caption"]) == sorted(
        captions
    )  # none is shown twice


def test_readable_images_have_thumbnails(
    tmp_path: Path, picture: Callable[[int], Image.Image]
) -> None:
    evaluation = make_evaluation(images=4)
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff damaged")
    picture(1).resize((1600, 40)).save(tmp_path / "wide.png")
    picture(2).resize((900, 1200)).save(tmp_path / "high.jpg")
    files = (tmp_path / "damaged.jpg", tmp_path / "wide.png", None, tmp_path / "high.jpg")
    page = write(tmp_path, replace(evaluation, paths=files))
    assert sorted(image.size for image in page.thumbnails()) == [(225, 300), (400, 10)]
    assert len(page.texts["p.caption"]) == 4
    assert THUMBNAIL == (400, 300)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("rich", [True, False])
def test_minimal_evaluations_have_a_report(tmp_path: Path, images: int, rich: bool) -> None:
    page = write(tmp_path, make_evaluation(images, rich=rich))
    assert len(page.texts["p.caption"]) == images
    assert not page.thumbnails()
    headings = [
        "Scores",
        "Distribution",
        "Best images",
        *["Worst images"] * (images > 1),
        "All images",
    ]
    assert [heading for heading in page.texts["h2"] if rich <= (heading in headings)] == headings
    assert bool(page.texts.get("p.warning")) == rich  # five annotated images are missing


@pytest.mark.parametrize("names", [(), ("BLEU-1",), ("ROUGE-L", "SPICE")])
def test_any_selection_of_metrics_has_a_report(tmp_path: Path, names: tuple[str, ...]) -> None:
    evaluation = make_evaluation(images=3)
    values = np.array([0.1, 0.3, 0.2])
    scores = dict.fromkeys(names, 0.2)
    comparison = Comparison(
        "other", {name: Difference(0.2, 0.0, (0.0, 0.0), 1.0) for name in names}
    )
    chosen = {
        "scores": scores,
        "intervals": {},
        "per_image": dict.fromkeys(names, values),
        "comparison": comparison,
    }
    page = write(tmp_path, replace(evaluation, groups=(), **chosen))
    assert page.data["columns"] == ["Image", "Caption", *names]
    assert [row[3] for row in page.data["rows"]] == [[value] * len(names) for value in (10, 30, 20)]
    best_first = [evaluation.captions[index] for index in (1, 2, 0)]
    assert page.texts.get("p.caption", []) == (best_first if names else [])


@pytest.mark.parametrize("values", [(-0.5, -0.2, 0.29), (-0.9, -0.61, -0.3)])
def test_scores_below_0_have_a_report(tmp_path: Path, values: tuple[float, ...]) -> None:
    """A metric of one's own may be one: a cosine, a log-probability."""
    found = Measured.mean("own", np.array(values))
    mean = found.scores["own"]
    evaluation = replace(
        make_evaluation(images=3, rich=False),
        scores=found.scores,
        intervals={"own": (min(values), max(values))},
        per_image=found.per_image,
    )
    page = write(tmp_path, evaluation)
    bars = [title.split(": ") for title in page_bars(page) if " to " in title]
    assert sum(int(count) for _, count in bars) == 3
    for name, count in bars:
        low, high = map(float, name.split(" to "))
        assert int(count) == sum(low <= 100 * value < high for value in values), name
    bar = next(attributes for tag, attributes in page.elements if tag == "rect")
    start, width = (float(bar[name].rstrip("%")) for name in ("x", "width"))
    marks = ticks(100 * min(values), max(0, 100 * max(values)))  # the axis
    zero, end = (100 * (at - marks[0]) / (marks[-1] - marks[0]) for at in (0, 100 * mean))
    assert (start, start + width) == pytest.approx((end, zero), abs=0.01)


def test_a_comparison_of_hallucinations_says_that_less_is_better(tmp_path: Path) -> None:
    def note(*names: str) -> str:
        scores = dict.fromkeys(names, 0.3)
        differences = {name: Difference(0.2, 0.1, (0.0, 0.2), 0.1) for name in names}
        evaluation = replace(
            make_evaluation(images=3, rich=False),
            scores=scores,
            intervals={},
            per_image=dict.fromkeys(names, np.array([0.2, 0.3, 0.4])),
            comparison=Comparison("theirs", differences),
        )
        notes = write(tmp_path, evaluation).texts["p.note"]
        return next(text for text in notes if "in favour of the first" in text)

    assert note("CIDEr-D").endswith("differences above 0 are in favour of the first.")
    assert note("CIDEr-D", "CHAIR_i").endswith(", those of CHAIR if they are below 0.")


@pytest.mark.parametrize("unknown", [1, 3])
def test_undefined_scores_are_dashes_and_sort_no_images(tmp_path: Path, unknown: int) -> None:
    nan, scores = np.nan, {"BLEU-1": 0.4, "SPICE": np.nan}
    evaluation = replace(
        make_evaluation(images=3),
        scores=scores,
        intervals={"BLEU-1": (0.3, 0.5), "SPICE": (nan, nan)},
        per_image={
            "BLEU-1": np.array([0.5, 0.4, 0.3]),
            "SPICE": np.array([nan] * unknown + [0.1, 0.2, 0.3][unknown:]),
        },
        groups=(Group("animal", 3, scores),),
        comparison=Comparison("theirs", {"SPICE": Difference(0.2, nan, (nan, nan), nan)}),
    )
    page = write(tmp_path, evaluation)
    assert "nan" not in (tmp_path / "report.html").read_text(encoding="utf-8").lower()
    assert page.texts["td.number strong"] == ["40.0", "\u2013", "\u2013"]
    assert [row[3][1] for row in page.data["rows"]] == [None] * unknown + [10, 20, 30][unknown:]
    ranked = (2, 1) if unknown == 1 else (0, 1, 2)  # the latter by BLEU
    assert page.texts["p.caption"] == [evaluation.captions[index] for index in ranked]
    assert (
        f"SPICE is undefined for {unknown} of the 3 images, and so for the whole set."
        in page.texts["p.note"]
    )


def test_notes_on_how_to_read_scores_are_below_them(tmp_path: Path) -> None:
    one, few, many = (
        {*write(tmp_path, make_evaluation(images)).texts["p.note"]} for images in (1, 29, 30)
    )
    assert few - many == {"Fewer than 30 images: too few to rely on intervals and p-values."}
    assert one - few == {"CIDEr-D is always 0 if there is only one image."}


def test_the_system_that_lacks_captions_is_named(tmp_path: Path) -> None:
    for missing, told in (
        (0, "Without a caption: 5."),
        (5, "Captioned, but not in theirs.json: 5."),
    ):
        page = write(
            tmp_path, replace(make_evaluation(), comparison=Comparison("theirs.json", {}, missing))
        )
        (warning,) = page.texts["p.warning"]
        assert warning.startswith(f"30 of 35 annotated images were scored. {told} These")


def test_an_evaluation_of_empty_captions_has_a_report(tmp_path: Path) -> None:
    evaluation = make_evaluation(images=2, rich=False, text=lambda number: "")
    for values in (*evaluation.per_image.values(), evaluation.scores):
        for key in values if isinstance(values, dict) else range(2):
            values[key] = 0.0
    page = write(tmp_path, evaluation)
    assert page.texts["td.number strong"] == ["0.0"] * 6
    assert {title for title in page_bars(page) if not title.endswith(": 0")} == {
        "0 to 1: 2",
        "0: 2",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_in_a_browser_the_table_can_be_sorted_filtered_and_paged(
    tmp_path: Path, width: int, dark: bool
) -> None:
    words = ("a dog runs", "two dogs </script> run", "a cat sleeps")
    evaluation = make_evaluation(images=150, text=lambda number: f"{words[number % 3]} {number}")
    evaluation.per_image["ROUGE-L"][7] = np.nan  # comes last, whichever are first
    write_page(tmp_path / "report.html", evaluation)
    scores = np.sort(100 * evaluation.per_image["CIDEr-D"])
    with chromium(width, dark=dark) as driver:
        driver.get((tmp_path / "report.html").as_uri())

        def cells(name: str) -> list[str]:
            script = (
                "return [...document.querySelectorAll(`[data-label='${arguments[0]}']`)].map(e =>"
                " e.innerText)"
            )
            return list(driver.execute_script(script, name))

        def status() -> str:
            return str(driver.find_element("css selector", "[role=status]").text)

        assert status() == "1\u201350 of 150"
        assert cells("Caption") == list(evaluation.captions[:50])
        header = driver.find_element("xpath", "//th[button='CIDEr-D']")
        button = header.find_element("tag name", "button")
        button.click()
        assert header.get_attribute("aria-sort") == "descending"
        np.testing.assert_allclose(
            [float(cell) for cell in cells("CIDEr-D")], scores[:-51:-1], atol=0.0551
        )
        button.send_keys("\n")  # by the keyboard
        assert header.get_attribute("aria-sort") == "ascending"
        np.testing.assert_allclose(
            [float(cell) for cell in cells("CIDEr-D")], scores[:50], atol=0.0551
        )
        for _ in range(2):
            driver.find_element("xpath", "//button[.='Next']").click()
        assert status() == "101\u2013150 of 150"
        assert not driver.find_element("xpath", "//button[.='Next']").is_enabled()
        np.testing.assert_allclose(
            [float(cell) for cell in cells("CIDEr-D")], scores[100:], atol=0.0551
        )

        for name in ("th/button[.='ROUGE-L']", *["button[.='Next']"] * 2) * 2:
            driver.find_element("xpath", f"//{name}").click()
            assert ("\u2013" in cells("ROUGE-L")) == (status() == "101\u2013150 of 150")
        assert (cells("ROUGE-L")[-1], cells("Caption")[-1]) == ("\u2013", evaluation.captions[7])

        box = driver.find_element("css selector", "input[type=search]")
        box.send_keys("DOGS </scr")
        # Fifty captions have it, and a reference of fifty others, whose references are shown to say
        # why they are here.
        assert status() == "1\u201350 of 100 (of all 150)"
        own = [caption for caption in cells("Caption") if "dogs </scr" in caption.splitlines()[0]]
        others = [caption for caption in cells("Caption") if caption not in own]
        assert own and all(len(caption.splitlines()) == 1 for caption in own)
        assert others and all("dogs </scr" in caption for caption in others)
        box.clear()
        box.send_keys("no such words")
        assert status() == "None of 150" and cells("Caption") == []

        assert (
            driver.execute_script("return document.documentElement.scrollWidth") == width
        )  # nothing sticks out
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background != "rgb(255, 255, 255)") == dark
        assert not [
            url for url in requested_urls(driver) if not url.startswith(("file://", "data:"))
        ]
        assert not console_errors(driver)


@pytest.mark.slow
def test_in_a_browser_hostile_text_is_escaped_and_the_report_works_without_scripts(
    tmp_path: Path,
) -> None:
    evaluation = make_evaluation(
        images=len(HOSTILE), text=lambda number: HOSTILE[number % len(HOSTILE)]
    )
    write_page(tmp_path / "report.html", evaluation)
    with chromium() as driver:
        driver.get((tmp_path / "report.html").as_uri())
        assert driver.execute_script(
            "return [document.scripts.length, document.images.length]"
        ) == [2, 0]
        script = (
            "return [...document.querySelectorAll('tbody summary')].map(e =>"
            " e.textContent.toWellFormed())"
        )
        captions = [caption.replace("\ufffd", "?") for caption in driver.execute_script(script)]
        assert captions == [visible(text) for text in HOSTILE]
        assert not console_errors(driver)  # the policy has refused nothing, for there was nothing

        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        driver.refresh()
        assert driver.find_element("css selector", ".scriptless").is_displayed()
        assert not driver.find_element("css selector", "table.images").is_displayed()
        cards = driver.find_elements("css selector", ".card")
        assert sum(card.is_displayed() for card in cards) == len(HOSTILE)
