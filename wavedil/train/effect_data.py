"""Recordings of an effect as training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wavedil.audio.data import overdrive
from wavedil.audio.data.recordings import Segment, find_recordings, split
from wavedil.audio.models.effect_model import EffectModel
from wavedil.errors import WavedilError
from wavedil.train.order import EveryFrom


class EffectData(L.LightningDataModule):
    """Random windows of pairs of input and target, found by ``wavedil.audio.data.recordings.find_recordings``.

    Args:
        root: a CSV table, or a folder with ``input`` and ``target``; null for the built-in overdriven strings, which
            are written to ``RUN/data``.
        crop: samples that count in each window.
        context: samples of the input that are heard before them; null for the receptive field. A window never begins
            before its segment, nor counts what the segment's ``skip`` leaves out.
        batch_size: windows in a batch.
        validation: where a table has no ``held_out``: null or a regular expression, see
            :func:`wavedil.audio.data.recordings.split`.
        resample: bring recordings of another rate to the model's; otherwise that is an error.
        built_in_seconds: length of the built-in sound.
        seed: of the windows.
        workers: processes that cut windows.
    """

    def __init__(
        self,
        root: str | None = None,
        crop: int = 8192,
        context: int | None = None,
        batch_size: int = 3,
        validation: str | None = None,
        resample: bool = False,
        built_in_seconds: float = 30.0,
        seed: int = 0,
        workers: int = 0,
    ):
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("crop", crop, 1), ("context", context, 0)):
            if value is not None and value < least:
                raise WavedilError(f"{name} is {value}: expected at least {least}")
        self.root, self.crop, self.context, self.batch_size = root, crop, context, batch_size
        self.validation, self.resample, self.built_in_seconds = validation, resample, built_in_seconds
        self.seed, self.workers = seed, workers

    def open(self, folder: Path, network: EffectModel) -> None:
        """Reads the recordings, makes the built-in ones in ``folder``, and checks that they suit the network."""
        root = self.root
        if root is None:
            root = overdrive.make_recordings(
                folder / "data", self.built_in_seconds, network.sample_rate, knob="drive" if network.knobs else None
            )
        recordings = find_recordings(root)
        context = network.receptive_field - 1 if self.context is None else self.context
        for recording in recordings:
            try:
                network.knob_values(recording.knobs)
            except WavedilError as error:
                raise WavedilError(f"{root}: {recording.target.name}: {error}") from None
        self.train, self.valid, self.note = split(
            recordings, network.sample_rate, context=context, validation=self.validation, resample=self.resample
        )
        self.windows = RandomWindows(self.train, network, self.crop, context, self.seed)
        if network.charged and not self.windows.whole:
            raise WavedilError(
                f"the network has charges at time 0, and windows of {context + self.crop} samples begin within "
                "segments: set context so that context + crop is the length of every segment"
            )
        self.network = network

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.windows,
            batch_size=self.batch_size,
            sampler=EveryFrom.unseen(self.trainer, self.batch_size),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_Held(self.valid, self.network))

    def spread(self, num: int) -> list[Segment]:
        """So many of the held-out segments, evenly over all."""
        num = min(num, len(self.valid))
        return [self.valid[i * len(self.valid) // num] for i in range(num)]


class RandomWindows(Dataset[dict[str, Tensor]]):
    """Windows of ``context + crop`` samples at random places; window i depends on the seed and i alone.

    Items are ``input`` (1, context + crop), ``target`` (1, crop), which belongs to the input's end, and ``knobs``.
    """

    def __init__(self, segments: Sequence[Segment], network: EffectModel, crop: int, context: int, seed: int):
        self.segments, self.crop, self.size, self.seed = segments, crop, context + crop, seed
        self.knobs = [network.knob_values(segment.knobs) for segment in segments]
        self.places = []  # first and last start of a window in each segment
        for segment in segments:
            first, last = max(0, segment.skip - context), len(segment) - self.size
            if last < first:
                raise WavedilError(
                    f"{segment.name} has {len(segment)} samples, {segment.skip} of them skipped: too few for windows "
                    f"of {context} + {crop}; use a smaller crop or context"
                )
            self.places.append((first, last))
        self._ends = np.cumsum([last - first + 1 for first, last in self.places])

    @property
    def whole(self) -> bool:
        """Whether every window is a whole segment."""
        return all(place == (0, 0) for place in self.places)

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        aim = int(np.random.default_rng([self.seed, index]).integers(self._ends[-1]))
        number = int(np.searchsorted(self._ends, aim, side="right"))
        segment = self.segments[number]
        stop = self.places[number][1] - (int(self._ends[number]) - 1 - aim) + self.size
        return {
            "input": torch.from_numpy(segment.input[stop - self.size : stop]).unsqueeze(0),
            "target": torch.from_numpy(segment.target[stop - self.crop : stop]).unsqueeze(0),
            "knobs": self.knobs[number],
        }


class _Held(Dataset[dict[str, Tensor]]):
    """Whole segments, in order."""

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
