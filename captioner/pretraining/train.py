"""A config -> a pretrained encoder."""

from collections.abc import Sequence

from lightning.pytorch.cli import LightningArgumentParser

from captioner.pretraining.checkpoints import ENCODER, PretrainingCheckpoints
from captioner.pretraining.datamodule import PretrainingData
from captioner.pretraining.module import PretrainingModule
from captioner.training.train import RunCLI, run, settings


class PretrainCLI(RunCLI):
    """The command line of pretraining."""

    begin_with = ("model.weights", ENCODER)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of checkpoints, and link the model's options to the data's."""
        super().add_arguments_to_parser(parser)
        parser.add_lightning_class_args(PretrainingCheckpoints, "checkpoint")
        parser.link_arguments("model.method", "data.method")
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("data.preprocessing", "model.preprocessing", apply_on="instantiate")


def main(args: Sequence[str] | None = None) -> int:
    """Pretrain from command-line arguments.

    Args:
        args: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after a user's mistake, reported on one line.
    """

    def open_cli(given: list[str] | None) -> RunCLI:
        return PretrainCLI(
            PretrainingModule,
            PretrainingData,
            args=given,
            **settings("pretrain", "Pretrain an encoder", "runs/encoder", num_sanity_val_steps=0),
        )

    return run(open_cli, args)
