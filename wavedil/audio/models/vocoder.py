"""Vocoders that generate all samples at once: log-mel features and a generator."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.audio.conditioning.features import LogMel
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, with_article
from wavedil.weights import register


@register
class Vocoder(nn.Module):
    """Vocoder: log-mel spectrograms to audio, all samples at once (not autoregressive).

    ``forward(mels, seed)``: ``(batch, n_mels, frames) -> (batch, 1, hop_length * frames)``. The same seed gives the
    same sound.

    Args:
        features: the log-mel spectrograms that the generator expects; ``model.features(sound)`` computes them from
            audio ``(batch, time)``.
        generator: :class:`wavedil.audio.models.spectral.SpectralGenerator`,
            :class:`wavedil.audio.models.parallel_wavegan.ParallelWaveGANGenerator`,
            :class:`wavedil.audio.models.diffwave.DiffWave`, or a registered class of your own with the attributes
            ``mels``, ``hop_length``, ``sample_rate`` and ``receptive_field`` and the methods ``loss(sound, mel)``, for
            training, and ``sample(mel, generator)``.

    Raises:
        WavedilError: the generator expects other features.
    """

    title = "a vocoder"

    def __init__(self, features: LogMel, generator: nn.Module):
        super().__init__()
        if not isinstance(features, LogMel):
            raise WavedilError(f"features is {with_article(features)}: expected LogMel")
        missing = [
            name for name in ("loss", "sample", "mels", "hop_length", "sample_rate") if not hasattr(generator, name)
        ]
        if missing:
            raise WavedilError(
                f"generator is {with_article(generator)}, without {' and '.join(missing)}: expected e.g. "
                "SpectralGenerator"
            )
        pairs = {
            "n_mels": (features.channels, generator.mels),
            "hop_length": (features.hop_length, generator.hop_length),
            "sample_rate": (features.sample_rate, generator.sample_rate),
        }
        for name, (found, needed) in pairs.items():
            if found != needed:
                other = "mels" if name == "n_mels" else name
                raise WavedilError(
                    f"features have {name}={found}, the generator is for {needed}: set features.{name} and "
                    f"generator.{other} to the same"
                )
        self.features, self.generator = features, generator
        self.sample_rate, self.hop_length = features.sample_rate, features.hop_length
        self.works_on_frames = getattr(generator, "works_on_frames", False)

    def loss(self, sound: Tensor, mels: Tensor) -> Tensor:
        """The generator's training loss.

        Args:
            sound: ``(batch, 1, hop_length * frames)``.
            mels: ``(batch, n_mels, frames)``.
        """
        return self.generator.loss(sound, mels)

    @torch.no_grad()
    def forward(self, mels: Tensor, seed: int = 0) -> Tensor:
        mels = to_tensor("mels", mels)
        if mels.ndim != 3 or mels.shape[1] != self.features.channels or not mels.shape[2]:
            raise WavedilError(
                f"mels has shape {tuple(mels.shape)}: expected (batch, {self.features.channels}, frames)"
            )
        if not bool(torch.isfinite(mels).all()):
            raise WavedilError("mels has NaN or infinity: check how they were made")
        weight = next(self.generator.parameters())
        return self.generator.sample(mels.to(weight), torch.Generator().manual_seed(seed))

    @property
    def receptive_field(self) -> int:
        """Samples that an output sample depends on."""
        return self.generator.receptive_field

    @property
    def dilations(self) -> tuple[int, ...]:
        return self.generator.stack.dilations

    @staticmethod
    def inspection() -> tuple[Callable[..., dict[str, Any]], Callable[..., str]]:
        """The functions behind ``wavedil inspect``: numbers of a model, and their text."""
        from wavedil.audio.inspection import inspect_vocoder, render_vocoder

        return inspect_vocoder, render_vocoder

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.audio.vocoder_evaluation import evaluate_vocoder

        return evaluate_vocoder

    @staticmethod
    def sampling() -> Callable[..., Any]:
        """The function behind ``wavedil sample``."""
        from wavedil.audio.generation.vocode_files import vocode_files

        return vocode_files
