"""Clips of an audio generator."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from wavedil.audio.data.audio_files import write
from wavedil.audio.generation.generate import generate
from wavedil.audio.resynthesis import griffin_lim, log_mel_features
from wavedil.core import fold_dilations
from wavedil.core.gridding import has_irregular_taps
from wavedil.core.schema import Seconds, checked
from wavedil.errors import WavedilError
from wavedil.progress import Bar, say
from wavedil.report import add_captions
from wavedil.train.data import Count, NotNegative, OptionalCount
from wavedil.train.module import TrainingModule
from wavedil.train.previews import Previews, Samples, has_methods, preview_names


class SoundPreviews(Previews):
    """Held-out and generated clips with spectrograms. The seed is fixed, so the clips of all steps can be compared.

    Args:
        first: step of the first preview.
        every: steps between later previews.
        seconds: length of each clip.
        num: clips per preview.
    """

    @checked
    def __init__(self, first: OptionalCount = 100, every: Count = 1000, seconds: Seconds = 1.0, num: Count = 1):
        super().__init__(first, every)
        self.seconds, self.num = seconds, num

    def data_methods(self, network: nn.Module) -> Sequence[str]:
        return _conditioning_method(network)

    def write_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        if not has_methods(trainer.datamodule, ["preview_sounds"], "previews of targets"):
            return
        network = module.network
        for index, sound in enumerate(trainer.datamodule.preview_sounds()[: self.num]):
            clip = torch.as_tensor(sound)[: round(self.seconds * network.sample_rate)]
            clip = network.decode(network.encode(clip))
            self.write_clip(trainer, clip, network.sample_rate, f"target_{index}", "target", 0)
            facts = {"belongs": network.conditioner.upsampling is not None}
            add_captions(self.folder(trainer), {f"row_{index}": facts | facts_of(trainer.datamodule, index)})

    def write_outputs(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        network = module.eval_network
        samples = max(1, round(self.seconds * network.sample_rate))
        conditioning = _conditioning(network, trainer.datamodule, samples, self.num)
        sound = generate(_folded(network), samples, num=self.num, seed=0, **conditioning)
        if sound.shape[2] < samples:
            raise KeyboardInterrupt  # generate returns early on Ctrl-C, which was meant for the run
        for index, clip in enumerate(sound[:, 0]):
            self.write_clip(trainer, clip.cpu(), network.sample_rate, f"step_{step:06d}_{index}", "step", step)
            speaker = _speaker(network, conditioning, index)
            add_captions(self.folder(trainer), {f"row_{index}": {"speaker": speaker, "temperature": 1.0, "seed": 0}})


class SoundSamples(Samples):
    """Generated clips in ``RUN/samples``, and beside each a held-out recording.

    It is the recording that the model has resynthesized, or one of the same speaker or folder, which the clip does not
    repeat.

    Args:
        num: number of clips.
        seconds: length of each clip.
        temperature: see :func:`wavedil.audio.generate`.
    """

    @checked
    def __init__(self, num: OptionalCount = 4, seconds: Seconds = 4.0, temperature: NotNegative = 1.0):
        self.num, self.seconds, self.temperature = num, seconds, temperature

    def data_methods(self, network: nn.Module) -> Sequence[str]:
        return _conditioning_method(network)

    def write(self, network: nn.Module, data: L.LightningDataModule | None, folder: Path) -> str:
        total = max(1, round(self.seconds * network.sample_rate))
        options = _conditioning(network, data, total, self.num) | {"temperature": self.temperature}
        with Bar("sampling", network.sample_rate) as bar:
            sound = generate(_folded(network), total, num=self.num, progress=bar.update, **options)
        belongs = network.conditioner.upsampling is not None
        sounds = recordings_of(data)
        for index, clip in enumerate(sound):
            facts = {"speaker": _speaker(network, options, index), "temperature": self.temperature, "seed": 0}
            stem = folder / "samples" / f"sample_{index:03d}"
            if index < len(sounds):
                recording = torch.as_tensor(sounds[index])[None, :total]
                write(Path(f"{stem}_{'original' if belongs else 'recording'}.wav"), recording, network.sample_rate)
                facts = facts_of(data, index) | facts
                if belongs:
                    write_griffin_lim(network, recording, Path(f"{stem}_griffin_lim.wav"))
            add_captions(stem.parent, {f"row_{index}": facts})
            write(Path(f"{stem}.wav"), clip.cpu(), network.sample_rate)
        return (
            f"Listen: {folder / 'report.html'}\n"
            f"more clips: wavedil sample {folder / 'model'}{_sample_options(network)} --num 4 --seed 1 --out clips"
        )


def _folded(network: nn.Module) -> nn.Module:
    """The network, or a copy with its learned taps snapped and its branches merged, as engines need it."""
    return fold_dilations(copy.deepcopy(network)) if has_irregular_taps(network) else network


def recordings_of(data: L.LightningDataModule | None) -> Sequence[np.ndarray]:
    """Held-out recordings; none if a file has become unreadable, because clips of the model do not need them."""
    try:
        return data.preview_sounds() if hasattr(data, "preview_sounds") else []
    except (WavedilError, OSError) as error:
        say(f"recordings for comparison skipped: {error}")
        return []


def write_griffin_lim(network: nn.Module, original: torch.Tensor, path: Path) -> None:
    """Writes Griffin-Lim of the log-mels of a recording, to compare a vocoder with; nothing for other features."""
    features = log_mel_features(network)
    whole = 0 if features is None else original.shape[1] // features.hop_length * features.hop_length
    if whole:
        mels = features(original[:, :whole])[0]
        write(path, griffin_lim(features, mels)[None], network.sample_rate)


def _is_conditional(network: nn.Module) -> bool:
    return network.conditioner.upsampling is not None or bool(network.speakers)


def _conditioning_method(network: nn.Module) -> Sequence[str]:
    return ["preview_conditioning"] if _is_conditional(network) else []


def facts_of(data: L.LightningDataModule, index: int) -> dict[str, Any]:
    """Caption with the name of the clip's recording."""
    return {"file": preview_names(data, index + 1)[index]}


def _speaker(network: nn.Module, options: dict[str, Any], index: int) -> str | None:
    return network.speakers[options["speaker"][index]] if network.speakers and "speaker" in options else None


def _conditioning(network: nn.Module, data: L.LightningDataModule | None, samples: int, num: int) -> dict:
    """Options of ``generate``: the conditioning of held-out recordings."""
    return data.preview_conditioning(network, samples, num) if _is_conditional(network) else {}


def _sample_options(network: nn.Module) -> str:
    """Options of ``wavedil sample`` that this network needs."""
    length = " --condition FILE" if network.conditioner.upsampling is not None else " --seconds 4"
    return length + (f" --speaker {network.speakers[0]}" if network.speakers else "")
