"""The page and the API, as Gradio blocks."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
import numpy as np

from captioner.demo import limits
from captioner.demo.answers import api_answer, page_answer, page_options
from captioner.demo.card import Card
from captioner.demo.visits import Visits
from captioner.errors import CaptionerError
from captioner.explain.maps import colours
from captioner.inference import Captioner


def build_app(
    captioner: Captioner, *, card: Card | None = None, examples: Sequence[Path] = (), visits: Visits | None = None
) -> gr.Blocks:
    """Build the demo.

    Args:
        captioner: The model; it is loaded once, and all visitors share it.
        card: What to say about it.
        examples: Photos that are offered to try; they stay where they are, and a copy is served.
        visits: Notes who looks at which photo; what serves the app tells it of uploads.

    Returns:
        The app. Launch it with `captioner.demo.server.serving`, which also shuts what could be abused, or put it into
        another app.
    """
    app = gr.Blocks(title="captioner", analytics_enabled=False, delete_cache=(60, limits.LONGEST_VISIT))
    with app:
        gr.HTML(_resource("header.html"), apply_default_css=False)
        with gr.Row(elem_id="cap-stage"):
            with gr.Column(scale=5, min_width=300, elem_id="cap-input"):
                photo = gr.Image(
                    label="Photo",
                    show_label=False,
                    sources=["upload", "clipboard", "webcam"],
                    height=320,
                    buttons=["fullscreen"],
                    placeholder="Drop a photo here\nor click to choose one",
                    elem_id="cap-photo",
                )
                if examples:
                    gr.Examples(
                        [[str(path)] for path in examples],
                        photo,
                        label="Or take one of these",
                        elem_id="cap-examples",
                        cache_examples=False,
                        api_visibility="private",
                    )
                options = _options(captioner)
            with gr.Column(scale=7, min_width=300, elem_id="cap-output"):
                result = gr.HTML(
                    value=None,
                    html_template='<div class="cap-result"></div>',
                    js_on_load=_resource("result.js"),
                    apply_default_css=False,
                    palette=colours(np.linspace(0, 1, 7, dtype=np.float32)).tolist(),
                )
        if card is not None:
            _about(card)
        _connect(app, captioner, photo, options, result, visits or Visits())
    return app


def look() -> dict[str, Any]:
    """What `Blocks.launch` must be given for the page to look as it should: only fonts that are there already."""
    theme = gr.themes.Base(
        primary_hue="amber",
        secondary_hue="amber",
        neutral_hue="stone",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return {"theme": theme, "css": _resource("page.css"), "footer_links": ["api"]}


def _options(captioner: Captioner) -> list[gr.Slider | gr.Checkbox]:
    """The controls, in the order of `page_options`; they begin with the model's own choices."""
    own = captioner.decoding
    with gr.Accordion("Options", open=False, elem_id="cap-options"):
        beam_size = gr.Slider(
            1, 10, min(own.beam_size, 10), step=1, label="Beam size", info="How many sentences are tried at once"
        )
        alternatives = gr.Slider(
            1, 10, max(3, own.alternatives), step=1, label="Captions", info="At most as many as beams"
        )
        max_length = gr.Slider(1, max(25, own.max_length), own.max_length, step=1, label="Longest caption, in words")
        no_repeat_ngram = gr.Slider(
            0,
            5,
            own.no_repeat_ngram,
            step=1,
            label="Never repeat so many words in a row",
            info="0 allows repetition",
        )
        sample = gr.Checkbox(own.sample, label="Draw words at random instead of searching")
        temperature = gr.Slider(
            0.1,
            2,
            own.temperature,
            step=0.1,
            label="Temperature",
            info="Of random words: below 1 is cautious, above 1 varied",
            interactive=own.sample,
        )
        sample.change(
            lambda on: gr.update(interactive=on), sample, temperature, show_progress="hidden", api_visibility="private"
        )
    return [beam_size, alternatives, max_length, no_repeat_ngram, sample, temperature]


def _about(card: Card) -> None:
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in card.facts)
    scores = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(number)}</dd></div>" for name, number in card.scores)
    scored = f'<p class="cap-scored">{escape(card.scored)}</p><dl>{scores}</dl>' if scores else ""
    content = f'<section class="cap-about"><h2>{escape(card.title)}</h2><ul>{facts}</ul>{scored}</section>'
    gr.HTML(content, apply_default_css=False)
    if card.text:
        with gr.Accordion("The model card: its data, its licence, what it is bad at", open=False):
            gr.Markdown(card.text, elem_id="cap-card")


def _connect(
    app: gr.Blocks,
    captioner: Captioner,
    photo: gr.Image,
    options: list[gr.Slider | gr.Checkbox],
    result: gr.HTML,
    visits: Visits,
) -> None:
    visits.kept = lambda: photo.keep_in_cache
    shared: dict[str, Any] = {"concurrency_limit": limits.AT_ONCE, "concurrency_id": "captioner"}

    def show(request: gr.Request, file: dict[str, Any] | None, *chosen: Any) -> dict[str, Any] | None:
        visitor = str(request.session_hash)
        if file is None:
            visits.leave(visitor)
            return None
        path, name = _uploaded(file)
        visits.look_at(visitor, path)
        return page_answer(captioner, path, name, page_options(captioner, *chosen))

    def leave(request: gr.Request) -> None:
        visits.leave(str(request.session_hash))

    def caption(
        photo: dict[str, Any],
        beam_size: int | None = None,
        alternatives: int | None = None,
        max_length: int | None = None,
        min_length: int | None = None,
        no_repeat_ngram: int | None = None,
        sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        style: str | None = None,
    ) -> dict[str, Any]:
        """Caption a photo. An option that is left out is the model's own choice.

        Args:
            photo: The photo, by `gradio_client.handle_file`.
            beam_size: Beams of the search; 1 is greedy.
            alternatives: Captions, the best first.
            max_length: The most words of a caption.
            min_length: The fewest words of a caption.
            no_repeat_ngram: No sequence of so many words occurs twice; 0 allows repetition.
            sample: Draw words at random instead of searching.
            temperature: For sampling: below 1 is cautious, above 1 varied.
            top_k: For sampling: draw from so many most probable words.
            top_p: For sampling: draw from words of this joint probability.
            seed: For sampling: makes it repeatable.
            style: The manner of speech, one of the model's styles; empty for the plain one.

        Returns:
            What `captioner caption --json` prints, but for the path: caption, log_prob, alternatives.
        """
        options = {
            "beam_size": beam_size,
            "alternatives": alternatives,
            "max_length": max_length,
            "min_length": min_length,
            "no_repeat_ngram": no_repeat_ngram,
            "sample": sample,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "style": style,
        }
        visitor = uuid4().hex
        path, name = _uploaded(photo)
        visits.look_at(visitor, path)
        try:
            return api_answer(captioner, path, name, options)
        except CaptionerError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            visits.leave(visitor)

    gr.on(
        [photo.change, *(control.change for control in options)],
        show,
        [photo, *options],
        result,
        preprocess=False,  # or Gradio would open the photo, which is Captioner's business
        show_progress="minimal",
        trigger_mode="always_last",
        api_visibility="private",
        **shared,
    )
    gr.api(  # type: ignore[attr-defined]
        caption,
        api_name="caption",
        api_description="Caption a photo, sent by gradio_client.handle_file. The options are those of `captioner "
        "caption`; one that is left out is the model's own choice. The answer is what `captioner caption --json` "
        "prints, but for the path.",
        **shared,
    )
    app.unload(leave)


def _uploaded(photo: object) -> tuple[Path, str]:
    """Where an uploaded photo lies, and what its owner calls it.

    Whatever has the form of a file Gradio has looked at before: it lies in the folder of uploads.
    """
    match photo:
        case {"path": str(path), "meta": {"_type": "gradio.FileData"}, **rest}:
            return Path(path), str(rest.get("orig_name") or Path(path).name)
    raise gr.Error("photo is no uploaded file; expected what gradio_client.handle_file gives.", print_exception=False)


def _resource(name: str) -> str:
    return files("captioner.demo").joinpath(name).read_text(encoding="utf-8")
