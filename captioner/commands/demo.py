"""`captioner demo`: a page to try a model on."""

from argparse import Namespace
from pathlib import Path

from captioner.commands.model import add_model
from captioner.commands.parser import Add
from captioner.commands.terminal import show_warnings
from captioner.errors import ConfigError, MissingExtraError


def declare(add: Add) -> None:
    """Say what the command takes."""
    parser = add(
        "demo",
        usage="captioner demo [OPTIONS]",
        help="Serve a page to try a model on.",
        description="""\
Serve a page that captions photos and shows for each word where the model looked. It
loads nothing from elsewhere. Ctrl-C ends it, and deletes all that was uploaded,
but for what visitors agreed to leave with --corrections.""",
        epilog="""\
examples:
  captioner demo
  captioner demo --model runs/tiny/best --port 8000
  captioner demo --host 0.0.0.0
  captioner demo --corrections corrections.csv""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help=(
            "Where to listen: 127.0.0.1 for this machine alone, 0.0.0.0 for its network. [default:"
            " %(default)s]"
        ),
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="Port to listen at. [default: the first free one from 7860 on]",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="Also make a public address, by a tunnel of gradio.live.",
    )
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="FILE",
        help=(
            "Ask visitors for better captions; append those of visitors who agree to this .csv,"
            " with their photos beside it. [default: ask for none]"
        ),
    )
    add_model(parser, batches=False)


def run(options: Namespace) -> int:
    """Serve the demo until Ctrl-C, or until it is told to end."""
    show_warnings()
    try:
        from captioner.demo.server import serve
    except ModuleNotFoundError as error:
        raise MissingExtraError("The demo", "demo") from error
    models = options.model or [None]
    if len(models) > 1:
        raise ConfigError("The demo shows one model; name one --model.")
    serve(
        models[0],
        backend=options.backend,
        device=options.device,
        host=options.host,
        port=options.port,
        share=options.share,
        corrections=options.corrections,
        started=lambda url: print(f"The demo is at {url} (Ctrl-C ends it)", flush=True),
    )
    return 0
