"""Conditioning of a WaveNet on local features and a speaker.

Terms, the same in all modules:

- ``features``: one vector per frame of ``hop_length`` samples, ``(batch, channels, frames)``; e.g. a log-mel
  spectrogram. :func:`wavedil.audio.generate` takes them as its argument ``condition``.
- ``upsampling``: the network that brings features to the sample rate. ``WaveNet`` takes it as its argument
  ``condition``.
- ``speaker``: a name or its index; the network looks up its embedding ``(batch, speaker_channels)``.
- ``condition``: the input of the layers: upsampled features and speaker embedding, concatenated,
  ``(batch, channels, time)``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.audio.conditioning.features import Features
from wavedil.audio.conditioning.upsampling import Upsampling
from wavedil.audio.data import audio_files, feature_files
from wavedil.audio.data.levels import check_level
from wavedil.audio.generation.plan import checked_weight
from wavedil.core.schema import checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, count_text, one_of, with_article

#: Speakers as users name them: one for all streams or one per stream; or embeddings ``(num, speaker_channels)``.
Speaker = Tensor | str | int | Sequence[str | int]


class Conditioner(nn.Module):
    """Computes the condition: upsampled features, a speaker embedding, both or none.

    Args:
        upsampling: brings features to the sample rate; see :mod:`wavedil.audio.conditioning.upsampling`.
        speakers: names.
        speaker_channels: size of a speaker embedding.
        sample_rate: of the model, in Hz; features computed from sound must have the same.
    """

    def __init__(self, upsampling: nn.Module | None, speakers: Sequence[str], speaker_channels: int, sample_rate: int):
        super().__init__()
        if upsampling is not None and not isinstance(upsampling, Upsampling):
            raise WavedilError(
                f"condition is {with_article(upsampling)}: expected a network that brings features to the sample "
                "rate, e.g. NearestUpsampling(LogMel())"
            )
        rate = getattr(getattr(upsampling, "features", None), "sample_rate", sample_rate)
        if rate != sample_rate:
            raise WavedilError(f"condition has sample_rate={rate}, the model {sample_rate}: expected the same for both")
        if isinstance(speakers, str) or not all(isinstance(name, str) for name in speakers):
            raise WavedilError(f"speakers is {speakers!r}: expected a list of names")
        if len(set(speakers)) != len(speakers):
            raise WavedilError(f"speakers is {list(speakers)}: a name occurs twice")
        self.upsampling, self.speakers = upsampling, tuple(speakers)
        self.speaker_embedding = nn.Embedding(len(speakers), speaker_channels) if speakers else None
        self.feature_channels = 0 if upsampling is None else upsampling.channels
        self.speaker_channels = speaker_channels if speakers else 0
        self.channels = self.feature_channels + self.speaker_channels
        # Tracks the device; this module may have no parameters.
        self.register_buffer("device_tracker", torch.empty(0), persistent=False)

    def forward(self, features: Tensor | None, speaker: Tensor | None, time: int) -> Tensor | None:
        """The condition ``(batch, channels, time)`` of excerpts; None without conditioning.

        Args:
            features: ``(batch, channels, reach + frames + reach)``, ``upsampling.reach`` more frames on each side; the
                excerpt starts at the start of a frame.
            speaker: int64 ``(batch,)`` indices.
        """
        upsampled = None if self.upsampling is None else self.upsampling(features)[..., :time]
        embedding = None if self.speaker_embedding is None else self.speaker_embedding(speaker)
        return _concatenate(upsampled, embedding, time)

    def crop_condition(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """The condition of a batch of training crops, as :class:`wavedil.audio.data.corpus.RandomCrops` makes them."""
        features = None if self.upsampling is None else self.upsampling.crop_features(batch)
        return self(features, batch.get("speaker"), batch["codes"].shape[1])

    @checked
    def conditioning(self, features: Tensor | np.ndarray | None, speaker: Speaker | None, num: int = 1) -> Conditioning:
        """Checks the features and speakers of ``num`` streams and puts them on the model's device.

        Args:
            features: ``(1 or num, channels, frames)``; frame f covers the samples from ``f * hop_length`` to
                ``(f + 1) * hop_length``.
            speaker: see :data:`Speaker`.

        Raises:
            WavedilError: an input is missing, is not one of this model's, has another shape, or contains NaN.
        """
        _check_presence("condition", features, self.upsampling, "features of the sound to generate")
        _check_presence("speaker", speaker, self.speaker_embedding, f"one of {', '.join(self.speakers)}")
        if self.channels == 0:
            return Conditioning()
        for weight in self.parameters():
            checked_weight(weight)
        device = self.device_tracker.device
        if features is not None:
            features = to_tensor("condition", features)
            self.upsampling.check(features, num)
            features = features.to(device).expand(num, -1, -1)
        if isinstance(speaker, Tensor):
            speaker = to_tensor("speaker", speaker).detach()
            shape = num, self.speaker_channels
            if tuple(speaker.shape) != shape:
                raise WavedilError(f"speaker is {tuple(speaker.shape)}: expected {shape}, or names")
            if not bool(torch.isfinite(speaker).all()):
                raise WavedilError("speaker has NaN or infinity: check how the vectors were made")
            speaker = speaker.to(device).float()
        elif speaker is not None:
            indices = speaker_indices(speaker, self.speakers, num)
            speaker = self.speaker_embedding.weight.detach()[torch.tensor(indices, device=device)].float()
        return Conditioning(self.upsampling, features, speaker)

    def check(self, condition: Tensor | None, codes: Tensor) -> None:
        """Raises WavedilError unless the condition is ``(batch, channels, time)`` for codes ``(batch, time)``."""
        expected = (codes.shape[0], self.channels, codes.shape[1]) if self.channels else None
        found = None if condition is None else tuple(condition.shape)
        if found != expected:
            raise WavedilError(
                f"condition is {found or 'missing'} for codes of shape {tuple(codes.shape)}: expected "
                f"{expected or 'None, since this model has no conditioning'}; compute it by "
                "model.conditioning(features, speaker, num).condition(start, stop)"
            )


class Conditioning:
    """Conditioning inputs of a batch of streams, upsampled chunk by chunk.

    Upsampling runs in float64 and its result is rounded to float32: so the condition of a sample does not depend on
    where chunks begin.

    Args:
        upsampling: of the model; it is copied. None without features.
        features: ``(batch, channels, frames)``.
        speaker: embeddings ``(batch, speaker_channels)``, or None.

    Attributes:
        samples: length of the features in samples; None without features.
    """

    def __init__(
        self, upsampling: Upsampling | None = None, features: Tensor | None = None, speaker: Tensor | None = None
    ):
        self.speaker, self.samples = speaker, None
        self._upsampling = self._features = None
        self._zero = False
        if upsampling is not None:
            self._upsampling = copy.deepcopy(upsampling).double()
            self._features = upsampling.pad(features.double())
            self.samples = features.shape[2] * upsampling.hop_length

    @torch.no_grad()
    def upsampled_features(self, start: int, stop: int) -> Tensor | None:
        """``(batch, feature_channels, stop - start)`` for the samples from ``start`` to ``stop``."""
        if self._upsampling is None:
            return None
        hop = self._upsampling.hop_length
        first, last = start // hop, -(-stop // hop)
        with torch.autocast(self._features.device.type, enabled=False):
            upsampled = self._upsampling(self._features[..., first : last + 2 * self._upsampling.reach])
        upsampled = upsampled[..., start - first * hop : stop - first * hop].float()
        return torch.zeros_like(upsampled) if self._zero else upsampled

    def condition(self, start: int, stop: int) -> Tensor | None:
        """``(batch, channels, stop - start)`` for the samples from ``start`` to ``stop``, as layers take it."""
        return _concatenate(self.upsampled_features(start, stop), self.speaker, stop - start)

    def unconditional(self) -> Conditioning:
        """The same with zeros as the condition, for classifier-free guidance."""
        other = copy.copy(self)
        other.speaker = None if self.speaker is None else torch.zeros_like(self.speaker)
        other._zero = True
        return other

    def select(self, streams: list[int]) -> Conditioning:
        """The conditioning of some streams of the batch."""
        other = copy.copy(self)
        other.speaker = None if self.speaker is None else self.speaker[streams]
        other._features = None if self._features is None else self._features[streams]
        return other

    def check(self, samples: int) -> None:
        """Raises WavedilError if the features are shorter than ``samples``."""
        if self._upsampling is not None and samples > self.samples:
            hop = self._upsampling.hop_length
            raise WavedilError(
                f"condition has {self.samples // hop} frames at a hop of {hop}, which last {self.samples} samples, "
                f"but {samples} samples are needed: give {-(-samples // hop)} frames, or ask for less"
            )


def speaker_indices(speaker: str | int | Sequence[str | int], speakers: Sequence[str], num: int) -> list[int]:
    """Indices of the speakers of ``num`` streams, from names or indices, one for all or one per stream."""
    names = [speaker] * num if isinstance(speaker, str | int) else list(speaker)
    if len(names) != num:
        raise WavedilError(
            f"speaker has {count_text(len(names), 'name')} for {num} streams: expected one, or one per stream"
        )
    indices = []
    for name in names:
        known = name in speakers if isinstance(name, str) else isinstance(name, int) and 0 <= name < len(speakers)
        if not known or isinstance(name, bool):
            raise WavedilError(f"speaker {name!r} is unknown: expected {one_of(name, speakers)}")
        indices.append(speakers.index(name) if isinstance(name, str) else name)
    return indices


def read_features(
    features: Features | None, path: str | Path, sample_rate: int, device: torch.device | None = None
) -> tuple[Tensor, int]:
    """Reads features ``(1, channels, frames)``; returns them and their length in samples.

    Args:
        features: of the model; None if it takes none.
        path: an audio file at any rate, to compute features from, or a .npy file with ``(channels, frames)``.
        sample_rate: of the model, in Hz.
        device: that computes the features.
    """
    if features is None:
        raise WavedilError("condition is given, but this model takes no condition: leave it out")
    if Path(path).suffix == ".npy":
        found = feature_files.read_features(path, features.channels).unsqueeze(0)
        return found, found.shape[-1] * features.hop_length
    sound = check_level(audio_files.read(path, sample_rate=sample_rate)[0], path)
    return features(torch.from_numpy(sound).to(device)), sound.shape[1]


def _concatenate(features: Tensor | None, speaker: Tensor | None, time: int) -> Tensor | None:
    """Features ``(batch, channels, time)`` and embeddings ``(batch, channels)`` as one condition, features first."""
    if speaker is None:
        return features
    speaker = speaker.unsqueeze(2).expand(-1, -1, time)
    return speaker if features is None else torch.cat([features.to(speaker.dtype), speaker], dim=1)


def _check_presence(name: str, value: object, module: nn.Module | None, expected: str) -> None:
    if value is not None and module is None:
        raise WavedilError(f"{name} is given, but this model takes no {name}: leave it out")
    if value is None and module is not None:
        raise WavedilError(f"this model needs a {name}: {expected}")
