"""Training of effect models on recordings of an effect's input and output."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from wavedil.audio.data import overdrive
from wavedil.audio.data.alignment import Align
from wavedil.audio.data.captures import Findings
from wavedil.audio.data.recording_files import Recording, find_recordings
from wavedil.audio.data.recordings import Segment, split_recordings
from wavedil.audio.effects.losses import ESR, compute_loss
from wavedil.audio.effects.process import apply_model
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core.cost import count_parameters
from wavedil.core.schema import PathText, Seconds, checked
from wavedil.errors import WavedilError
from wavedil.train.data import (
    Count,
    Decay,
    Fraction,
    NotNegative,
    OptionalCount,
    Seed,
    TrainingData,
    Workers,
    activation_bytes,
    evenly_spaced,
)
from wavedil.train.module import MetricNames, TrainingModule, describe_network
from wavedil.train.previews.effect import EffectPreviews, EffectSamples
from wavedil.weights import check_savable


class EffectModule(TrainingModule):
    """Trains an effect model on pairs of input and target. The validation metric is ESR in percent, and the run saves
    the weights of the validation with the lowest one: of a model of several networks, that of the last network.

    Batches are dictionaries with ``input`` ``(batch, 1, context + time)``, ``target`` ``(batch, 1, time)``, which
    belongs to the end of the input, and ``knobs`` ``(batch, knobs)``.

    Args:
        network: e.g. :class:`wavedil.audio.Effect` or :class:`wavedil.audio.models.nam.NAM`. An Effect whose ``knobs``
            are None gets those of the recordings.
        optimizer: builds the optimizer from the parameters; in a recipe, a class and its arguments.
        loss: loss of output and target, ``(batch, 1, time)`` each; default ESR. See
            :mod:`wavedil.audio.effects.losses`.
        warmup_steps: steps until the full learning rate.
        lr_decay: fraction of the budget over which the learning rate falls to zero.
        lr_power: exponent of the decay.
        ema_decay: decay of the exponential moving average (EMA) of the weights, which is validated and saved, e.g.
            0.999; 0 for none.
        compile: train with ``torch.compile``; saved files do not depend on it.
    """

    metric_names = MetricNames("train_loss", "loss", "valid_esr", "held-out ESR {:.3f} %", "samples")
    previews_class, samples_class = EffectPreviews, EffectSamples
    best_metric = "valid/esr"
    divergence_factor = 1000.0  # relative errors of quiet windows are many times those of loud ones

    @checked
    def __init__(
        self,
        network: EffectModel,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        loss: nn.Module | None = None,
        warmup_steps: OptionalCount = 100,
        lr_decay: Fraction = 1.0,
        lr_power: NotNegative = 1.0,
        ema_decay: Decay = 0.0,
        compile: bool = False,
    ):
        super().__init__(optimizer, warmup_steps, lr_decay, lr_power, ema_decay, compile)
        check_savable(network)
        self.network, self.loss = network, ESR() if loss is None else loss

    def summary(self) -> str:
        knobs = self.network.knobs
        return describe_network(self.network) + (f", knobs {', '.join(knobs)}" if knobs else "")

    def num_items(self, batch: dict[str, Tensor]) -> int:
        return batch["target"].numel()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        knobs = batch["knobs"] if self.network.knobs else None
        return sum(self._loss(part, batch, knobs) for part in self.network.parts())

    def _loss(self, network: EffectModel, batch: dict[str, Tensor], knobs: Tensor | None) -> Tensor:
        output = self.call(network, batch["input"], knobs, skip=batch["input"].shape[2] - batch["target"].shape[2])
        return compute_loss(self.loss, output.float(), batch["target"], batch["input"], knobs)

    def on_validation_epoch_start(self) -> None:
        self.energies = torch.zeros(len(self.network.parts()), 2, dtype=torch.float64)  # of error and target
        self.segments = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        for index, network in enumerate(self.eval_network.parts()):
            output = apply_model(network, batch["input"], batch["knobs"])[:, :, -batch["target"].shape[2] :]
            sounds = (batch["target"] - output, batch["target"])
            energies = [sound.double().square().sum((1, 2)).cpu() for sound in sounds]
            self.energies[index] += torch.stack([energy.sum() for energy in energies])
        for error, signal, knobs in zip(*energies, batch["knobs"], strict=True):
            settings = dict(zip(self.network.knobs, knobs.tolist(), strict=False))
            self.segments.append({"knobs": settings, "error": float(error), "signal": float(signal)})

    def validation_details(self) -> dict[str, Any]:
        """Energies of error and target of each held-out segment, with its knobs, and ESR in percent of each network."""
        if self.trainer.world_size > 1:  # there are more segments elsewhere
            return {}
        esr = (100 * self.energies[:, 0] / self.energies[:, 1]).tolist()
        networks = [
            {"name": name, "parameters": count_parameters(network), "esr": each}
            for name, network, each in zip(self.network.part_names(), self.network.parts(), esr, strict=True)
        ]
        return {"segments": self.segments, "networks": networks}

    def on_validation_epoch_end(self) -> None:
        energies = self.trainer.strategy.reduce(self.energies.to(self.device), reduce_op="sum")
        error, signal = energies[-1]
        self.log("valid/esr", 100 * error / signal)
        self.eval_network.set_validation_esr(float(error / signal))


class EffectData(TrainingData):
    """Random crops of recordings of input and target; see
    :func:`wavedil.audio.data.recording_files.find_recordings`.

    Args:
        root: ``DRY.wav,WET.wav``, a CSV table, a folder with ``input`` and ``target``, or a folder with ``input.wav``
            and targets named ``KNOB=VALUE.wav``; null for built-in overdriven strings, which are written to
            ``RUN/data``.
        crop: samples in each crop, all included in the loss except the first ``skip`` samples of a segment.
        context: samples of the input before the crop; null for the receptive field - 1. Crops start inside their
            segment.
        batch_size: crops in a batch.
        validation: null or a regular expression, for recordings without a column ``held_out``; see
            :func:`wavedil.audio.data.recordings.split_recordings`.
        resample: resample recordings of another rate to the model's; otherwise they are an error.
        align: ``auto`` estimates the delay of each target and removes it, ``none`` leaves it, and a number is the delay
            in samples of all targets (negative if they are early).
        built_in_seconds: length of the built-in audio.
        seed: seed of the crops.
        num_workers: number of worker processes of the data loader.
    """

    @checked
    def __init__(
        self,
        root: PathText | None = None,
        crop: Count = 8192,
        context: OptionalCount | None = None,
        batch_size: Count = 3,
        validation: str | None = None,
        resample: bool = False,
        align: Align = "auto",
        built_in_seconds: Seconds = 30.0,
        seed: Seed = 0,
        num_workers: Workers = 0,
    ):
        super().__init__(batch_size, seed, num_workers)
        self.root, self.crop, self.context = root, crop, context
        self.validation, self.resample, self.align = validation, resample, align
        self.built_in_seconds, self.findings = built_in_seconds, Findings()

    def prepare_data(self) -> None:
        if self.root is None and not self.ready:
            network = self.network()
            knob = "drive" if network.knobs or _takes_knobs(network) else None
            overdrive.make_recordings(self.built_in_folder(), self.built_in_seconds, network.sample_rate, knob=knob)

    def read_data(self) -> str:
        network = self.network()
        root = self.built_in_folder() / "table.csv" if self.root is None else self.root
        self.recordings = recordings = find_recordings(root)
        knobs = ""
        if _takes_knobs(network) and recordings[0].knobs:
            network, knobs = _with_knobs(network, recordings, str(root))
            self.trainer.lightning_module.network = network
        context = network.receptive_field - 1 if self.context is None else self.context
        for recording in recordings:
            try:
                network.knob_values(recording.knobs)
            except WavedilError as error:
                raise WavedilError(
                    f"{root}: {recording.target.name}: {error}; set model.network.knobs to the knobs of the table and "
                    'their ranges, e.g. "{gain: [0, 1]}", or to {} if it has none'
                ) from None
        options = {"context": context, "validation": self.validation, "resample": self.resample, "align": self.align}
        self.train, self.valid, self.findings = split_recordings(recordings, network.sample_rate, **options)
        self.windows = RandomWindows(self.train, network, self.crop, context, self.seed)
        size = f"data.crop is {self.crop} with {context} samples of context"
        self.check_batch_memory((self.crop + context) * activation_bytes(network), size)
        if network.charged and not self.windows.are_segments():
            raise WavedilError(
                f"context + crop is {context + self.crop} samples, less than a segment, but the network has charges at "
                "time 0, the start of a segment: set context and crop so that their sum is the length of every segment"
            )
        if knobs:
            self.findings.lines.insert(0, knobs)
        return str(self.findings)

    def data_files(self) -> list[Sequence[Path]]:
        return [[each.input for each in self.recordings], [each.target for each in self.recordings]]

    def train_dataloader(self) -> DataLoader:
        return self.endless_loader(self.windows)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Segments(self.valid, self.network()))

    def preview_segments(self, num: int) -> list[Segment]:
        """``num`` held-out segments, evenly spaced."""
        return [self.valid[index] for index in evenly_spaced(len(self.valid), num)]


def _takes_knobs(network: EffectModel) -> bool:
    """Whether the knobs of a network are to be those of the recordings."""
    return network.config.get("knobs", {}) is None


def _with_knobs(network: EffectModel, recordings: Sequence[Recording], root: str) -> tuple[EffectModel, str]:
    """The network with the knobs of recordings, whose ranges are those of their settings, and a line about them."""
    settings = {name: sorted({each.knobs[name] for each in recordings}) for name in recordings[0].knobs}
    for name, values in settings.items():
        if len(values) < 2 or not np.isfinite(values).all():
            raise WavedilError(
                f"{root}: knob {name!r} has the value {values[0]:g} in all recordings: expected at least two finite "
                "values; remove it, or set model.network.knobs to names and ranges"
            )
    ranges = {name: [values[0], values[-1]] for name, values in settings.items()}
    texts = [f"{name} {low:g} to {high:g} ({len(settings[name])} settings)" for name, (low, high) in ranges.items()]
    network = type(network)(**{**network.config, "knobs": ranges}).train(network.training)
    return network, f"knobs of the recordings: {', '.join(texts)}"


class RandomWindows(Dataset[dict[str, Tensor]]):
    """Windows of ``context + crop`` samples at random positions; window i depends only on the seed and i.

    Items are ``input`` (1, context + crop), ``target`` (1, crop), which belongs to the end of the input, and ``knobs``.
    """

    def __init__(self, segments: Sequence[Segment], network: EffectModel, crop: int, context: int, seed: int):
        self.segments, self.crop, self.size, self.seed = segments, crop, context + crop, seed
        self.knobs = [network.knob_values(segment.knobs) for segment in segments]
        self.starts = []  # first and last start of a crop in each segment
        for segment in segments:
            first, last = max(0, segment.skip - context), len(segment) - self.size
            if last < first:
                raise WavedilError(
                    f"{segment.name} has {len(segment)} samples, {segment.skip} of them skipped: too few for crops "
                    f"of {context} + {crop}; use a smaller crop or context"
                )
            self.starts.append((first, last))
        self._ends = np.cumsum([last - first + 1 for first, last in self.starts])

    def are_segments(self) -> bool:
        """Whether every window is a complete segment."""
        return all(starts == (0, 0) for starts in self.starts)

    def __len__(self) -> int:
        return 2**31

    def _place(self, index: int) -> tuple[int, int]:
        """Number of the segment and last sample of window ``index``."""
        position = int(np.random.default_rng([self.seed, index]).integers(self._ends[-1]))
        number = int(np.searchsorted(self._ends, position, side="right"))
        return number, self.starts[number][1] - (int(self._ends[number]) - 1 - position) + self.size

    def origin(self, index: int) -> str:
        """Segment and first sample of window ``index``, for messages."""
        number, stop = self._place(index)
        return f"{self.segments[number].name} from sample {stop - self.crop}"

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, stop = self._place(index)
        segment = self.segments[number]
        return {
            "input": torch.from_numpy(segment.input[stop - self.size : stop]).unsqueeze(0),
            "target": torch.from_numpy(segment.target[stop - self.crop : stop]).unsqueeze(0),
            "knobs": self.knobs[number],
        }


class Segments(Dataset[dict[str, Tensor]]):
    """Complete segments in order; targets without the first ``skip`` samples."""

    def __init__(self, segments: Sequence[Segment], network: EffectModel):
        self.segments, self.network = segments, network

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        segment = self.segments[index]
        return {
            "input": torch.from_numpy(segment.input).unsqueeze(0),
            "target": torch.from_numpy(segment.target[segment.skip :]).unsqueeze(0),
            "knobs": self.network.knob_values(segment.knobs),
        }
