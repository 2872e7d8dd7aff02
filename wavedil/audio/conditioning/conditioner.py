"""What a model hears besides its own past: features that change from sample to sample, and a speaker."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.audio.conditioning.upsampling import Upsampling
from wavedil.audio.data import audio_files
from wavedil.audio.data.feature_files import read_array
from wavedil.audio.generation.plan import check_finite
from wavedil.errors import WavedilError


class Conditioning:
    """Conditioning of a batch of streams, in the form that engines take.

    This one is of a model without any. ``samples`` is the length that the features last, None where there is no end;
    ``speaker`` is ``(batch, speaker channels)`` or None.
    """

    samples: int | None = None
    speaker: Tensor | None = None

    def features(self, start: int, stop: int) -> Tensor | None:
        """``(batch, condition channels, stop - start)`` of the samples from ``start`` to ``stop``."""
        return None

    def joined(self, start: int, stop: int) -> Tensor | None:
        """Features and speaker as one ``(batch, channels, stop - start)``, what the model's stack takes."""
        return joined(self.features(start, stop), self.speaker, stop - start)

    def select(self, streams: list[int]) -> Conditioning:
        """That of some streams of the batch."""
        return self

    def without(self) -> Conditioning:
        """Zeros in its place: what guidance compares with."""
        return self

    def check(self, samples: int) -> None:
        """Refuses features that do not last for so many samples."""


class Given(Conditioning):
    """Conditioning that a user gave: features by frames, brought to the sample rate as they are needed, and a speaker.

    The net computes in float64, and what it makes is rounded to float32 then: so a sample's features do not depend on
    where chunks begin.

    Args:
        net: of the model; it is copied. None without features.
        frames: ``(batch, channels, frames)`` for the net.
        speaker: ``(batch, speaker channels)``, or None.
    """

    def __init__(self, net: Upsampling | None, frames: Tensor | None, speaker: Tensor | None):
        self.speaker = speaker
        self._net = self._frames = None
        self._silent = False
        if net is not None:
            self._net = copy.deepcopy(net).double()
            self._frames = net.padded(frames.double())
            self.samples = frames.shape[2] * net.hop_length

    @torch.no_grad()
    def features(self, start: int, stop: int) -> Tensor | None:
        if self._net is None:
            return None
        hop = self._net.hop_length
        first, last = start // hop, -(-stop // hop)
        with torch.autocast(self._frames.device.type, enabled=False):
            made = self._net(self._frames[..., first : last + 2 * self._net.reach])
        made = made[..., start - first * hop : stop - first * hop].float()
        return torch.zeros_like(made) if self._silent else made

    def without(self) -> Given:
        other = copy.copy(self)
        other.speaker = None if self.speaker is None else torch.zeros_like(self.speaker)
        other._silent = True
        return other

    def select(self, streams: list[int]) -> Given:
        other = copy.copy(self)
        other.speaker = None if self.speaker is None else self.speaker[streams]
        other._frames = None if self._frames is None else self._frames[streams]
        return other

    def check(self, samples: int) -> None:
        if self._net is not None and samples > self.samples:
            hop = self._net.hop_length
            raise WavedilError(
                f"the condition has {self.samples // hop} frames at a hop of {hop}, which last {self.samples} samples, "
                f"but {samples} samples are asked for: give {-(-samples // hop)} frames, or ask for less"
            )


def joined(features: Tensor | None, speaker: Tensor | None, time: int) -> Tensor | None:
    """Features ``(batch, channels, time)`` and speaker ``(batch, channels)`` as one, features first."""
    if speaker is None:
        return features
    speaker = speaker.unsqueeze(2).expand(-1, -1, time)
    return speaker if features is None else torch.cat([features.to(speaker.dtype), speaker], dim=1)


def speaker_numbers(speaker: str | int | Sequence[str | int], speakers: Sequence[str], num: int) -> list[int]:
    """The numbers of ``num`` streams' speakers, given by name or number, one for all or one for each."""
    each = [speaker] * num if isinstance(speaker, str | int) else list(speaker)
    if len(each) != num:
        raise WavedilError(f"speaker has {len(each)} names for {num} streams: expected one, or one for each")
    numbers = []
    for name in each:
        known = name in speakers if isinstance(name, str) else isinstance(name, int) and 0 <= name < len(speakers)
        if not known or isinstance(name, bool):
            raise WavedilError(f"speaker {name!r} is unknown: this model knows {', '.join(speakers)}")
        numbers.append(speakers.index(name) if isinstance(name, str) else name)
    return numbers


class Conditioner(nn.Module):
    """The part of a model that hears its conditioning: local features, a speaker, both or none.

    ``forward(frames, speaker, time)`` makes the condition ``(batch, channels, time)`` of training crops: ``frames`` are
    features with ``local.reach`` more on each side, the first sample at the start of a frame, and ``speaker`` numbers
    ``(batch,)``. Zeros stand for no conditioning.

    Args:
        local: brings features to the sample rate; see :mod:`wavedil.audio.conditioning.upsampling`.
        speakers: names.
        speaker_channels: length of the vector that stands for a speaker.
        sample_rate: of the model, which that of the features must be.
    """

    def __init__(self, local: nn.Module | None, speakers: Sequence[str], speaker_channels: int, sample_rate: int):
        super().__init__()
        if local is not None and not isinstance(local, Upsampling):
            raise WavedilError(
                f"condition is a {type(local).__name__}: expected what brings features to the sample rate, e.g. "
                "NearestUpsampling(LogMel())"
            )
        rate = getattr(getattr(local, "features", None), "sample_rate", sample_rate)
        if rate != sample_rate:
            raise WavedilError(
                f"the features are for {rate} Hz, the model for {sample_rate} Hz: give both one sample_rate"
            )
        if isinstance(speakers, str) or not all(isinstance(name, str) for name in speakers):
            raise WavedilError(f"speakers is {speakers!r}: expected a list of names")
        if len(set(speakers)) != len(speakers):
            raise WavedilError(f"speakers is {list(speakers)}: a name occurs twice")
        self.local, self.speakers = local, tuple(speakers)
        self.voices = nn.Embedding(len(speakers), speaker_channels) if speakers else None
        self.condition_channels = 0 if local is None else local.channels
        self.speaker_channels = speaker_channels if speakers else 0
        self.channels = self.condition_channels + self.speaker_channels
        # Where the model is: there may be no weight here that tells.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def forward(self, frames: Tensor | None, speaker: Tensor | None, time: int) -> Tensor | None:
        features = None if self.local is None else self.local(frames)[..., :time]
        return joined(features, None if self.voices is None else self.voices(speaker), time)

    def given(
        self, condition: Tensor | None, speaker: Tensor | str | int | Sequence[str | int] | None, num: int
    ) -> Conditioning:
        """What a user's features and speakers mean for ``num`` streams.

        Args:
            condition: features ``(1 or num, channels, frames)``; ``WaveNet.features(sound)`` computes them where they
                are of sound. Frame f is of the samples from ``f * hop_length`` up to ``(f + 1) * hop_length``.
            speaker: name or number, one for all streams or one for each; or vectors ``(num, speaker_channels)``.

        Raises:
            WavedilError: what the model needs is not given or the other way round, or does not fit; NaN.
        """
        _check_given("condition", condition, self.local, "features of the sound to make")
        _check_given("speaker", speaker, self.voices, f"one of {', '.join(self.speakers)}")
        if self.channels == 0:
            return Conditioning()
        check_finite(self.parameters())
        device = self.place.device
        if condition is not None:
            condition = torch.as_tensor(condition)
            self.local.check(condition, num)
            condition = condition.to(device).expand(num, -1, -1)
        if isinstance(speaker, Tensor):
            if tuple(speaker.shape) != (num, self.speaker_channels):
                raise WavedilError(
                    f"speaker has shape {tuple(speaker.shape)}: expected ({num}, {self.speaker_channels}), or names"
                )
            if not bool(torch.isfinite(speaker).all()):
                raise WavedilError("speaker has NaN or infinity: check how the vectors were made")
            speaker = speaker.to(device).float()
        elif speaker is not None:
            numbers = speaker_numbers(speaker, self.speakers, num)
            speaker = self.voices.weight.detach()[torch.tensor(numbers, device=device)].float()
        return Given(self.local, condition, speaker)

    def checked(self, condition: Tensor | None, codes: Tensor) -> Tensor | None:
        """The condition, which must be ``(batch, channels, time)`` for codes ``(batch, time)``."""
        expected = (codes.shape[0], self.channels, codes.shape[1]) if self.channels else None
        found = None if condition is None else tuple(condition.shape)
        if found != expected:
            raise WavedilError(
                f"condition is {found or 'not given'} for codes of shape {tuple(codes.shape)}: expected "
                f"{expected or 'none, since this model takes none'}; "
                "model.conditioning(features, speaker, num).joined(start, stop) makes it"
            )
        return condition


def read_features(model: nn.Module, path: str | Path) -> tuple[Tensor, int]:
    """Features ``(1, channels, frames)`` for a :class:`WaveNet`, and how many samples they are for.

    ``path`` is a sound file at any rate, of which they are computed, or a .npy file that holds ``(channels, frames)``.
    """
    local = model.conditioner.local
    if local is None:
        raise WavedilError("this model takes no condition: leave it out")
    if Path(path).suffix == ".npy":
        features = torch.from_numpy(np.array(read_array(path), np.float32)).unsqueeze(0)
        return features, features.shape[-1] * local.hop_length
    sound, _ = audio_files.read(path, sample_rate=model.sample_rate)
    sound = torch.from_numpy(sound).to(next(model.parameters()).device)
    return model.features(sound), sound.shape[1]


def _check_given(name: str, value: object, needed: nn.Module | None, what: str) -> None:
    if value is not None and needed is None:
        raise WavedilError(f"this model takes no {name}: leave it out")
    if value is None and needed is not None:
        raise WavedilError(f"this model needs a {name}: {what}")
