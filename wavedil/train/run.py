"""``wavedil train``: recipe → LightningCLI → run folder with model, samples and a page to listen to."""

from __future__ import annotations

import logging
import re
import shutil
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from wavedil.audio.generate import generate
from wavedil.audio.io import write
from wavedil.errors import WavedilError
from wavedil.ops.memory import keep_freed_memory
from wavedil.report import write_report
from wavedil.train.callbacks import Keep, Previews, Progress, StopOnNaN
from wavedil.train.recipes import find_recipe, run_folder

CHECKPOINT_EVERY = timedelta(minutes=2)


class RecipeCLI(LightningCLI):
    """LightningCLI with the options that are about the run and not about a part."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Previews, "previews")
        parser.add_argument("--samples.num", type=int, default=4, help="clips to make at the end")
        parser.add_argument("--samples.seconds", type=float, default=4.0, help="length of each")
        parser.add_argument("--samples.temperature", type=float, default=1.0)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Lightning's own warns when sys.argv holds something else, which behind a command it always does.
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        settings = self.config.trainer
        if settings.precision is None:
            kwargs["precision"] = fast_precision()
        if settings.logger is None:
            kwargs["logger"] = TensorBoardLogger(settings.default_root_dir, name="", version="tensorboard")
        return super().instantiate_trainer(**kwargs)


def train(
    recipe: str | None = None, out: str | None = None, resume: str | None = None, overrides: list[str] | None = None
) -> Path:
    """Trains by a recipe and returns the run folder.

    Args:
        recipe: a YAML file or the name of one that comes with the package; None for the default recipe.
        out: run folder; default ``runs/<recipe>``, with a number where that exists.
        resume: ``"auto"`` continues the run in ``out``, or the newest of this recipe; its own config.yaml is used.
        overrides: further options of LightningCLI, e.g. ``["--data.root", "speech/"]``.

    Raises:
        WavedilError: for a recipe, option, folder or data that cannot be used.
    """
    path = find_recipe(recipe)
    folder, checkpoint = run_folder(path, out, resume)
    config = folder / "config.yaml" if checkpoint else path
    _quiet()
    keep_freed_memory()
    cli = _build(["-c", str(config), *(overrides or []), "--trainer.default_root_dir", str(folder)], folder)
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    cli.parser.save(cli.config, folder / "config.yaml", overwrite=True)
    print(f"{path.stem}: {describe(cli.model.network)}", file=sys.stderr)
    started = time.perf_counter()
    try:
        # weights_only: a checkpoint is data, and loading it never runs code from it.
        resumed = {"ckpt_path": checkpoint, "weights_only": True} if checkpoint else {}
        cli.trainer.fit(cli.model, cli.datamodule, **resumed)
    except SystemExit:  # what Lightning makes of Ctrl-C, after its callbacks have saved model and checkpoint
        print(f"\ninterrupted; continue with: wavedil train --out {folder} --resume auto", file=sys.stderr)
    except WavedilError:
        if fresh and cli.trainer.global_step == 0:
            shutil.rmtree(folder)  # nothing was trained: the name is free again
        raise
    else:
        cli.trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    minutes = (time.perf_counter() - started) / 60
    if not (folder / "model").exists():
        raise WavedilError(f"{folder}: stopped before the first step, there is no model yet")
    finish(cli, folder)
    print(
        f"{minutes:.1f} minutes of training. Listen: {folder / 'report.html'}\n"
        f"more sound: wavedil sample {folder / 'model'} --seconds 4 --num 4 --seed 1 --out clips",
        file=sys.stderr,
    )
    return folder


def finish(cli: RecipeCLI, folder: Path) -> None:
    """The last validation, the sounds and the page that a run leaves."""
    cli.trainer.validate(cli.model, cli.datamodule, verbose=False)
    network, samples = cli.model.network.eval(), cli.config.samples
    total = round(samples.seconds * network.sample_rate)
    tty = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if tty or done == total:
            print(f"\rsampling {done / total:.0%}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    sound = generate(network, total, num=samples.num, temperature=samples.temperature, progress=progress)
    for index, clip in enumerate(sound):
        write(folder / "samples" / f"sample_{index:03d}.wav", clip.cpu(), network.sample_rate)
    write_report(folder)


def describe(network: torch.nn.Module) -> str:
    """What is about to be trained, in a line."""
    parameters = sum(p.numel() for p in network.parameters())
    field, rate = network.receptive_field, network.sample_rate
    return (
        f"{parameters:,} parameters, {len(network.dilations)} layers, receptive field {field} samples = "
        f"{1000 * field / rate:.1f} ms at {rate} Hz"
    )


def fast_precision() -> str:
    """bf16 autocast where the hardware multiplies bf16, else float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def _build(args: list[str], folder: Path) -> RecipeCLI:
    callbacks = [
        Progress(),
        Keep(),
        StopOnNaN(),
        ModelCheckpoint(
            folder / "checkpoints", filename="last", train_time_interval=CHECKPOINT_EVERY, enable_version_counter=False
        ),
    ]
    try:
        return RecipeCLI(
            args=args,
            run=False,
            model_class=L.LightningModule,
            datamodule_class=L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            trainer_defaults={
                "callbacks": callbacks,
                "check_val_every_n_epoch": None,  # validation is by steps: the only epoch has no end
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,  # AudioData deals its crops out to the processes itself
            },
        )
    except (ArgumentError, MisconfigurationException, ValueError, TypeError) as error:
        raise WavedilError(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """What is wrong with the options, out of a parser's account of all that it tried."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, WavedilError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    keys = [found[1] for found in (re.search(r'key "([^"]+)"', text), re.search(r"NestedArg\(key='([^']+)'", text)) if found]
    said = re.search(r"Option '[^']*' is not accepted|Expected an? [^.]*\. Got value: \S+", text)
    if not keys or not said:
        return text
    what = re.sub(r"<class '([^']+)'>", r"\1", said[0])
    return f"--{'.'.join(keys)}: {what}"


def _quiet() -> None:
    """Lightning's remarks that say nothing about this run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module="lightning", category=FutureWarning)
    # One process that crops from memory is faster than workers; recipes say otherwise where it is not.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The checkpoint folder of a resumed run is not empty, and should not be.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    # Batches are dictionaries of fixed keys; Lightning looks for a batch size in them and finds it.
    warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
