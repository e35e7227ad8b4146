"""`captioner demo`: a page to try a model on."""

from argparse import Namespace

from captioner.commands.model import add_model
from captioner.commands.parser import Add, file_path
from captioner.commands.terminal import show_warnings
from captioner.errors import ConfigError, MissingExtraError


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "demo",
        usage="captioner demo [OPTIONS]",
        help="Serve a web page to try a model.",
        description="""\
Serve a web page that captions photos and shows for each word where the model looked. The
page loads nothing from other servers. Ctrl-C stops it and deletes all uploads, except
corrections that visitors agreed to share (--corrections).""",
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
            "Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for its network."
            " [default: %(default)s]"
        ),
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="Port to listen on. [default: the first free port from 7860]",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="Also create a public URL, through a tunnel of gradio.live.",
    )
    parser.add_argument(
        "--corrections",
        type=file_path,
        metavar="FILE",
        help=(
            "Ask visitors for better captions; append them to this .csv file and save the photos"
            " next to it, if visitors agree. [default: don't ask]"
        ),
    )
    add_model(parser, batches=False)


def run(options: Namespace) -> int:
    """Serve the demo until Ctrl-C or SIGTERM."""
    show_warnings()
    try:
        from captioner.demo.server import serve
    except ModuleNotFoundError as error:
        raise MissingExtraError("The demo", "demo") from error
    models = options.model or [None]
    if len(models) > 1:
        raise ConfigError("The demo supports one model only; give a single --model.")
    serve(
        models[0],
        backend=options.backend,
        device=options.device,
        host=options.host,
        port=options.port,
        share=options.share,
        corrections=options.corrections,
        started=lambda url: print(f"The demo is at {url} (Ctrl-C stops it)", flush=True),
    )
    return 0
