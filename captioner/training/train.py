"""Train a model from a config into a checkpoint folder.

LightningCLI and jsonargparse parse the config: typed YAML, dotted overrides, errors on unknown or
mistyped keys.
"""

import errno
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from captioner.data.datamodule import CaptionData
from captioner.errors import CaptionerError, ConfigError
from captioner.model.temporal import TemporalConfig
from captioner.stopping import stop_at_once
from captioner.training.best_model import FOLDER as BEST
from captioner.training.checkpoints import RunCheckpoints
from captioner.training.lightning_module import CaptioningModule
from captioner.training.loggers import make_loggers
from captioner.training.plan import PrintPlan
from captioner.training.precision import AUTO, AutoPrecisionTrainer, resolve_precision
from captioner.training.progress import TellProgress
from captioner.training.resuming import (
    CHECKPOINTS,
    CONFIG,
    find_checkpoint,
    keep_settled,
    precision_before,
)

logger = logging.getLogger("captioner")

_ELSEWHERE = "Choose another folder: --trainer.default_root_dir FOLDER."


class SaveConfig(SaveConfigCallback):
    """Save the resolved config in the run's folder, with any logger, when training starts."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Don't save yet: resuming with another network fails only after this hook."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the config."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`; a resumed run overwrites it."""
        self.parser.save(self.config, Path(trainer.default_root_dir) / CONFIG, overwrite=True)


class RunCLI(LightningCLI):
    """The command line of a training run in a folder, which can be resumed.

    Attributes:
        begin_with: The option and the result in a run's folder that another run can start from.
        checkpoint: The checkpoint to resume from; None for a new run.
    """

    begin_with = ("model.init_from", BEST)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.checkpoint: Path | None = None
        super().__init__(*args, **{"trainer_class": AutoPrecisionTrainer} | kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add resuming and a logger."""
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Resume: 'last', or a .ckpt file."
        )
        parser.add_argument(
            "--wandb",
            type=str | None,
            default=None,
            help="Log to this project on Weights & Biases too.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line; `--model.finetune null` and the like disable a section."""
        self.config = parser.parse_args(
            _switched_off(parser, sys.argv[1:] if args is None else args)
        )

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint to resume, and restore the options that it settles."""
        if self.config.ckpt_path:
            folder = Path(self.config.trainer.default_root_dir)
            _open_folder(folder)
            self.checkpoint = find_checkpoint(self.config.ckpt_path, folder)
            keep_settled(self.config, self.checkpoint, self.begin_with)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to TensorBoard in the run's folder by default; join the processes of torchrun.

        The saved config has the resolved precision, so that a resumed run keeps it.
        If stderr is not a terminal, log lines replace the progress bar.
        """
        accumulated = self.config.trainer.accumulate_grad_batches
        if accumulated < 1:  # Lightning divides by it
            raise ConfigError(
                f"trainer.accumulate_grad_batches is {accumulated}; expected 1 or more."
            )
        for limit in ("max_epochs", "max_steps", "limit_train_batches"):
            if self.config.trainer[limit] == 0:  # Lightning would end without a word
                raise ConfigError(f"trainer.{limit} is 0, so nothing would be trained.")
        self.config.trainer.precision = kwargs["precision"] = self._precision()
        if self.config.trainer.logger in (None, True):
            kwargs["logger"] = make_loggers(
                Path(self.config.trainer.default_root_dir), self.config.wandb
            )
        if "TORCHELASTIC_RUN_ID" in os.environ:
            here = int(os.environ["LOCAL_WORLD_SIZE"])
            kwargs |= {"devices": here, "num_nodes": int(os.environ["WORLD_SIZE"]) // here}
        lines = not sys.stderr.isatty()
        if lines and self.config.trainer.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = False
        trainer = super().instantiate_trainer(**kwargs)
        if lines:
            trainer.callbacks.insert(0, TellProgress())  # type: ignore[attr-defined]  # Lightning does not declare it
        return trainer

    def _precision(self) -> Any:
        """Return the precision; "auto" becomes that of the resumed run."""
        asked, accelerator = self.config.trainer.precision, self.config.trainer.accelerator
        if asked == AUTO and self.checkpoint is not None:
            asked = precision_before(self.checkpoint.parent.parent) or asked
        return resolve_precision(asked, accelerator)


class TrainCLI(RunCLI):
    """The command line of training."""

    def before_instantiate_classes(self) -> None:
        """Restore settled options; those of the model that are linked to the data there too."""
        super().before_instantiate_classes()
        self.config.data.init_from = self.config.model.init_from

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add options of checkpoints and the plan, and link the model's arguments to the data."""
        super().add_arguments_to_parser(parser)
        parser.add_lightning_class_args(RunCheckpoints, "checkpoint")
        parser.add_lightning_class_args(PrintPlan, "plan")
        parser.link_arguments("model.init_from", "data.init_from")
        parser.link_arguments("model.temporal", "data.frames", compute_fn=_clip_frames)
        parser.link_arguments("data.vocabulary", "model.vocabulary", apply_on="instantiate")
        parser.link_arguments("data.word_counts", "model.word_counts", apply_on="instantiate")
        parser.link_arguments("data.event_config", "model.events", apply_on="instantiate")
        parser.link_arguments("data.preprocessing", "model.preprocessing", apply_on="instantiate")


def _clip_frames(temporal: TemporalConfig | Namespace) -> int:
    """Read the number of frames that the model sees from its section of the config."""
    return 0 if temporal.name == "none" else int(temporal.frames)


def _switched_off(parser: LightningArgumentParser, args: Sequence[str]) -> list[str]:
    """Replace a section's `null` with its defaults, which disable it."""
    given = list(args)
    for index, argument in enumerate(given):
        name, equals, value = argument.partition("=")
        if not equals and index + 1 < len(given):
            value = given[index + 1]
        if not name.startswith("--") or "." not in name or value != "null":
            continue
        section = parser.get_defaults().get(name[2:])
        if isinstance(section, Namespace):
            off = json.dumps(section.as_dict(), default=str)
            if equals:
                given[index] = f"{name}={off}"
            else:
                given[index + 1] = off
    return given


def main(args: Sequence[str] | None = None) -> int:
    """Train from command-line arguments.

    Args:
        args: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after a user error, which is reported in one line.
    """

    def open_cli(given: list[str] | None) -> RunCLI:
        # The data module divides the images among processes itself, as Lightning's sampler would
        # duplicate some of them in validation.
        return TrainCLI(
            CaptioningModule,
            CaptionData,
            args=given,
            **settings("train", "Train a captioner", "runs/captioner"),
        )

    return run(open_cli, args)


def settings(command: str, what: str, folder: str, **trainer: Any) -> dict[str, Any]:
    """Return the arguments of LightningCLI that all commands share.

    Args:
        command: The command's name.
        what: What it does, as the beginning of the help.
        folder: The default folder of the run.
        **trainer: More defaults of the trainer.
    """
    return {
        "save_config_callback": SaveConfig,
        "save_config_kwargs": {"save_to_log_dir": False},
        "seed_everything_default": 0,
        "parser_kwargs": {
            "prog": f"captioner {command}",
            "usage": "%(prog)s --config CONFIG [--KEY VALUE ...]",
            "allow_abbrev": False,
            "description": f"{what} from a config: the name of a shipped one, or a YAML file. All"
            " keys of a config are options of the command line too, and take precedence there.",
        },
        "trainer_defaults": {
            "default_root_dir": folder,
            "use_distributed_sampler": False,
            "enable_model_summary": False,
            **trainer,
        },
        "run": False,
    }


def run(open_cli: Callable[[list[str] | None], RunCLI], args: Sequence[str] | None) -> int:
    """Train from a command line.

    Args:
        open_cli: Parses the command line.
        args: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after a user error, which is reported in one line.
    """
    logging.basicConfig(format="%(message)s")
    # only the first process logs information, all log warnings
    logger.setLevel(logging.INFO if _is_first() else logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the plan has the rest
    warnings.filterwarnings(
        "ignore",
        message=".*(num_workers|Checkpoint directory|log_every_n_steps|in eval mode|"
        "isinstance.treespec|sync_dist=True|"
        "LightningCLI's args parameter|"  # intended here
        # not true here: batches that were trained on are skipped
        "resuming from a checkpoint that ended)",
    )
    with stop_at_once():
        return _train(open_cli, args)


def _train(open_cli: Callable[[list[str] | None], RunCLI], args: Sequence[str] | None) -> int:
    handlers = list(logger.handlers)
    try:
        cli = open_cli(None if args is None else list(args))
        folder = Path(cli.trainer.default_root_dir)
        if cli.checkpoint is None:
            _check_inputs(folder, cli.config)
            _begin_run(folder, cli.begin_with[1])
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.checkpoint, weights_only=True)
    except (CaptionerError, MisconfigurationException) as error:
        return _refuse(str(error))
    except torch.OutOfMemoryError:
        return _refuse(
            "The GPU's memory is full. Lower data.batch_size, or raise"
            " trainer.accumulate_grad_batches."
        )
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _refuse(
                f"{error.filename or error}: {error.strerror}. Choose a writable folder for the"
                " run: --trainer.default_root_dir FOLDER."
            )
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _refuse(
            f"The disk is full ({error}). Free some space, then resume with --ckpt_path last."
        )
    # Some options of the trainer and of its callbacks are refused by no other error.
    except (ValueError, RuntimeError) as error:
        if not _is_lightnings(error):
            raise
        return _refuse(" ".join(str(error).split()))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
    return 0


def _is_lightnings(error: Exception) -> bool:
    """Return whether Lightning, or what builds its objects from the config, raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("lightning.", "jsonargparse."))


def _refuse(why: str) -> int:
    logger.error("error: %s", why)
    return 2


def _check_inputs(folder: Path, config: Any) -> None:
    """Fail if a new run would overwrite its own config or its initial checkpoint."""
    for path in config.config or ():
        if (folder / CONFIG).exists() and (folder / CONFIG).samefile(os.fspath(path)):
            raise ConfigError(
                f"The run in {folder} would overwrite {path}, its own config. {_ELSEWHERE}"
            )
    begun = config.get("model.init_from")
    if (
        begun
        and (folder / BEST).exists()
        and os.path.exists(begun)
        and (folder / BEST).samefile(begun)
    ):
        raise ConfigError(
            f"The run in {folder} would overwrite {begun}, which it starts from. {_ELSEWHERE}"
        )


def _begin_run(folder: Path, result: str) -> None:
    """Open the folder of a new run; fail if it has another, or another's result."""
    if not _is_first():  # the first process may have written to it already
        return
    if any((folder / CHECKPOINTS).glob("*")):
        raise ConfigError(
            f"{folder} already contains a run. Resume it with --ckpt_path last, or choose another"
            " folder with --trainer.default_root_dir FOLDER."
        )
    if (folder / result).exists():
        raise ConfigError(
            f"{folder / result} is the result of an earlier run, which this one would overwrite."
            f" {_ELSEWHERE}"
        )
    _open_folder(folder)


def _open_folder(folder: Path) -> None:
    """Create a run's folder if it is new, and append to its log, which the first process writes."""
    if not _is_first():
        return
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; choose one with --trainer.default_root_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)


def _is_first() -> bool:
    """Return whether this is the first of the run's processes."""
    return not getattr(rank_zero_only, "rank", 0)
