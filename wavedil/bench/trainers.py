"""``wavedil bench trainers``: ESR of one network after equal CPU time, trained by wavedil and by neural-amp-modeler.

Both train NAM's standard network on one thread, on the same recordings, and hold out the same part. The loss, the
optimizer, the schedule, the scale of the targets and the batches of neural-amp-modeler 0.13 are those of its trainer;
its clock stops during validation. ``wavedil train -c nam`` trains anew for each budget, since its learning rate falls
to zero at the end; its clock does not stop. Of both, the weights of the best validation count.
"""

import argparse
import copy
import csv
import importlib
import json
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from wavedil.audio.data.overdrive import make_recordings
from wavedil.audio.data.recording_files import find_recordings
from wavedil.audio.data.recordings import Segment, split_recordings
from wavedil.audio.effects.evaluation import evaluate_pairs
from wavedil.audio.models.effect_model import EffectModel
from wavedil.audio.models.nam import NAM
from wavedil.bench.runner import describe, summary_row, torch_threads
from wavedil.errors import WavedilError
from wavedil.interop.nam import read_nam, write_nam

_ITEM, _BATCH = 8192, 16  # of neural-amp-modeler
MAX_MINUTES = 10_000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recordings",
        metavar="ROOT",
        help="DRY.wav,WET.wav or a table (default: the built-in pair)",
    )
    parser.add_argument(
        "--sample-rate",
        type=int,
        default=16000,
        metavar="HZ",
        help="of the recordings (default 16000)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        nargs="+",
        default=[5.0, 15.0, 30.0],
        help="CPU minutes of each budget",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of wavedil train -c nam, e.g. model.lr_power=8; can be repeated",
    )
    parser.add_argument("--only", choices=("wavedil", "nam"), help="only one of the trainers")


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints a line for each model; returns their rows."""
    wrong = [each for each in arguments.minutes if not 0 < each <= MAX_MINUTES]
    if wrong:
        raise WavedilError(f"--minutes {wrong[0]:g}: expected positive numbers of minutes, at most {MAX_MINUTES}")
    for each in arguments.set:
        if not re.fullmatch(r"\w[\w.]*=.+", each):
            raise WavedilError(f"--set {each}: expected KEY=VALUE, e.g. model.lr_power=8")
    NAM(sample_rate=arguments.sample_rate)  # checks it
    if arguments.only != "wavedil":
        _check_installed()
    budgets, rows = sorted(arguments.minutes), []
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        root = arguments.recordings
        if root is None:
            root = str(make_recordings(Path(folder) / "data", 30.0, arguments.sample_rate, knob=None))
        context = NAM().receptive_field - 1
        train, valid, findings = split_recordings(find_recordings(root), arguments.sample_rate, context=context)
        print(findings)
        print(json.dumps(describe("trainers", "cpu")), flush=True)
        for minutes in budgets if arguments.only != "nam" else ():  # first, since wrong options are found soon
            found = _wavedil(root, arguments.sample_rate, minutes, Path(folder) / f"{minutes:g}", arguments.set)
            _report(rows, "wavedil", valid, *found)
        if arguments.only != "wavedil":
            report = partial(_report, rows, "neural-amp-modeler", valid)
            _neural_amp_modeler(train, valid, arguments.sample_rate, budgets, Path(folder), report)
    return rows


def _report(rows: list, name: str, valid: Sequence[Segment], minutes: float, steps: int, model: EffectModel) -> None:
    esr = evaluate_pairs(model, valid).esr_percent
    row = summary_row(f"{name}, {minutes:.1f} CPU minutes", "% ESR", [esr])
    rows.append(row | {"cpu_minutes": minutes, "steps": steps})
    print(f"{name}: {minutes:.1f} CPU minutes, {steps} steps, ESR {esr:.4f} %", flush=True)


def _check_installed() -> None:
    try:
        importlib.import_module("nam.train.core")
    except ImportError as error:
        raise WavedilError(
            f"neural-amp-modeler is not installed ({error}): pip install neural-amp-modeler==0.13 or use --only wavedil"
        ) from None


def _wavedil(
    root: str, sample_rate: int, minutes: float, folder: Path, settings: Sequence[str]
) -> tuple[float, int, EffectModel]:
    """CPU minutes, steps, and the model."""
    from wavedil.audio import load
    from wavedil.train.run import train

    timer = {"class_path": "wavedil.bench.cpu_timer.CpuTimer", "init_args": {"seconds": 60 * minutes}}
    options = [
        f"--data.root={root}",
        f"--model.network.sample_rate={sample_rate}",
        f"--trainer.callbacks=[{json.dumps(timer)}]",
        "--trainer.max_steps=-1",
        "--previews.first=0",
        "--samples.num=0",
        *(f"--{each}" for each in settings),
    ]
    start = time.process_time()
    path = train("nam", out=str(folder), overrides=options)
    seconds = time.process_time() - start
    with (path / "metrics.csv").open(encoding="utf-8") as file:
        steps = int(list(csv.DictReader(file))[-1]["step"])
    return seconds / 60, steps, load(path / "model")


def _neural_amp_modeler(
    train: Sequence[Segment],
    valid: Sequence[Segment],
    sample_rate: int,
    budgets: Sequence[float],
    folder: Path,
    report: Callable[[float, int, EffectModel], None],
) -> None:
    """Reports CPU minutes, steps, and the best model so far, at each budget."""
    import pytorch_lightning as pl
    from nam.data import ConcatDataset, Dataset, get_joint_dataset_hooks
    from nam.train.core import _get_packed_model_config
    from nam.train.lightning_module import LightningModule

    torch.manual_seed(0)
    standard = write_nam(NAM(sample_rate=sample_rate), folder / "standard.nam")
    config = _get_packed_model_config()
    config["net"] = {
        "name": "WaveNet",
        "config": _init_config(json.loads(standard.read_text())["config"]),
    }
    model = LightningModule.init_from_config(config)
    field = model.net.receptive_field

    def dataset(segment: Segment, size: int | None) -> Any:
        x, y = (torch.from_numpy(sound.copy()) for sound in (segment.input, segment.target))
        start = segment.skip - (field - 1)
        x, y = (torch.nn.functional.pad(sound, (max(0, -start), 0))[max(0, start) :] for sound in (x, y))
        y = y.clamp(-0.999999, 0.999999)  # it refuses full scale
        return Dataset(x, y, field, size, sample_rate=sample_rate, require_input_pre_silence=None)

    size = _ITEM if len(train) == 1 else min(len(segment) - segment.skip for segment in train)
    sets = [ConcatDataset([dataset(s, n) for s in part]) for part, n in ((train, size), (valid, None))]
    normalize = {
        "name": "nam.data.normalize_joint_dataset_output",
        "kwargs": {"level_rms_dbfs": -18.0},
    }
    for hook in get_joint_dataset_hooks([normalize]):
        hook.apply(*sets)
    model.net.sample_rate = sample_rate
    for each in (each for part in sets for each in part.datasets):
        each.handshake(model.net)
    batches = torch.utils.data.DataLoader(sets[0], batch_size=_BATCH, shuffle=True, drop_last=True)
    clock = _clock(pl.Callback, sets[1], budgets, folder, report)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = dict.fromkeys(
            (
                "logger",
                "enable_checkpointing",
                "enable_progress_bar",
                "enable_model_summary",
            ),
            False,
        )
        pl.Trainer(max_epochs=-1, accelerator="cpu", callbacks=[clock], **quiet).fit(model, batches)


def _init_config(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of neural-amp-modeler's WaveNet, from those of a file."""
    layers = []
    for layer in config["layers"]:
        kept = {key: layer[key] for key in ("input_size", "condition_size", "channels", "dilations", "head")}
        layers.append(
            kept
            | {
                "kernel_size": layer["kernel_sizes"][0],
                "activation": layer["activation"][0]["type"],
            }
        )
    return {"layers_configs": layers, "head_scale": config["head_scale"]}


def _clock(
    base: type,
    valid: Any,
    budgets: Sequence[float],
    folder: Path,
    report: Callable[..., None],
) -> Any:
    """A callback that validates after each epoch and at each budget, and stops at the last one."""

    class Clock(base):
        def __init__(self) -> None:
            self.used, self.best, self.left = 0.0, (float("inf"), {}), list(budgets)

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.mark = time.process_time()

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            self.used += time.process_time() - self.mark
            if self.used >= 60 * self.left[0]:
                self.validate(module)
                now = copy.deepcopy(module.net.state_dict())
                module.net.load_state_dict(self.best[1])
                module.net.export(folder, basename="peer")
                module.net.load_state_dict(now)
                report(self.used / 60, trainer.global_step, read_nam(folder / "peer.nam"))
                self.left.pop(0)
                trainer.should_stop = not self.left
                self.left = self.left or [float("inf")]
            self.mark = time.process_time()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            self.used += time.process_time() - self.mark
            self.validate(module)
            self.mark = time.process_time()

        @torch.no_grad()
        def validate(self, module: Any) -> None:
            module.eval()
            pairs = [(module.net(x[None], pad_start=False)[0], y) for x, y in map(valid.__getitem__, range(len(valid)))]
            module.train()
            esr = sum(float((out - y).square().mean() / y.square().mean()) for out, y in pairs) / len(pairs)
            if esr < self.best[0]:
                self.best = esr, copy.deepcopy(module.net.state_dict())

    return Clock()
