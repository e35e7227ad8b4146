"""`captioner push`: upload a checkpoint folder to the Hugging Face Hub."""

from argparse import Namespace

from captioner.commands.parser import Add
from captioner.commands.terminal import note, show_warnings


def declare(add: Add) -> None:
    """Declare the command's options."""
    parser = add(
        "push",
        usage="captioner push DIR OWNER/NAME [OPTIONS]",
        operands=("DIR OWNER/NAME", 2, 2),
        help="Upload a checkpoint to the Hugging Face Hub.",
        description="""\
Upload the checkpoint folder DIR to the Hugging Face Hub as OWNER/NAME, in one commit. The
hub's metadata is added to its model card: task, licence and scores. Log in first: hf auth
login""",
        epilog="""\
example:
  captioner push runs/tiny/best me/tiny-captioner --license mit
  captioner caption photo.jpg --model hf://me/tiny-captioner""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="The hub's identifier of the licence, such as mit or cc-by-4.0.",
    )
    parser.add_argument(
        "--language",
        default="en",
        metavar="LANG",
        help="The language of the captions. [default: en]",
    )
    parser.add_argument(
        "--revision",
        metavar="BRANCH",
        help="The branch to commit to, made if needed. [default: main]",
    )
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")


def run(options: Namespace) -> int:
    """Upload a checkpoint to the hub."""
    from captioner.checkpoint import read_checkpoint
    from captioner.hub.sharing import push

    show_warnings()
    folder, name = options.operands
    if not read_checkpoint(folder).has_onnx:
        note(
            f"{folder} has no ONNX models, so users need torch. Add them: captioner export {folder}"
        )
    pushed = push(
        folder,
        name,
        private=options.private,
        revision=options.revision,
        licence=options.license,
        language=options.language,
    )
    print(pushed.url)
    return 0
