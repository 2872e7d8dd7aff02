"""Folders of recordings as training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from wavedil.audio.conditioning.speakers import speakers_of
from wavedil.audio.data import audio_files, pluck
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import FeatureExcerpt, RandomCrops, WholeFiles, check_crop
from wavedil.audio.data.feature_files import FeatureFiles
from wavedil.audio.data.published import find_published
from wavedil.audio.data.split import split_files
from wavedil.errors import WavedilError
from wavedil.train.order import EveryFrom


class AudioData(L.LightningDataModule):
    """Random crops of a folder of recordings, split into training and validation by file.

    The sample rate, the quantizer and the receptive field are the network's: what is said once cannot disagree.

    Args:
        root: folder of sound files, searched with its subfolders; null for the built-in plucked strings, which are
            written to ``RUN/data``. For a network of features that are not of the sound, they are in a .npy beside
            each file; see :class:`wavedil.audio.data.feature_files.FeatureFiles`.
        dataset: a published one that is below ``root``, where ``torchaudio.datasets`` puts it: ``YESNO``, ``LJSPEECH``,
            ``VCTK_092`` or e.g. ``LIBRITTS/train-clean-100``.
        download: let torchaudio fetch the ``dataset`` if it is not there.
        crop: samples in each crop; must be longer than the receptive field.
        batch_size: crops in a batch.
        full_context: count only samples that see their whole past (and file starts); otherwise all samples count, also
            those whose past was cut off by the crop.
        validation: null holds out every tenth of the sorted files; or a regular expression on paths, without suffix,
            e.g. ``_[0-4]$`` for the official test split of the Free Spoken Digit Dataset.
        exclude: regular expression of files to leave out altogether.
        speakers: where the names of the speakers come from, for a network that knows some: ``folders``, a .csv file
            with the columns file and speaker, or a regular expression on paths, without suffix, whose group is the
            name, e.g. ``_([a-z]+)_``; see :mod:`wavedil.audio.conditioning.speakers`.
        normalize: ``peak``, ``rms`` or null; see :class:`wavedil.audio.data.corpus.Corpus`.
        trim_db: cut silence off the ends of each file: this many dB below its loudest frame; null keeps all.
        valid_seconds: how much of the held-out sound each validation hears, from the first file on.
        built_in_seconds: length of the built-in sound.
        seed: of the crops.
        workers: processes that read crops.
    """

    def __init__(
        self,
        root: str | None = None,
        dataset: str | None = None,
        download: bool = False,
        crop: int = 8000,
        batch_size: int = 4,
        full_context: bool = False,
        validation: str | None = None,
        exclude: str | None = None,
        speakers: str | None = None,
        normalize: str | None = None,
        trim_db: float | None = None,
        valid_seconds: float = 20.0,
        built_in_seconds: float = 150.0,
        seed: int = 0,
        workers: int = 0,
    ):
        super().__init__()
        if batch_size < 1:
            raise WavedilError(f"batch_size is {batch_size}: expected at least 1")
        if download and dataset is None:
            raise WavedilError("download is true, but dataset names none: expected e.g. YESNO")
        self.root, self.dataset, self.download = root, dataset, download
        self.crop, self.batch_size, self.full_context = crop, batch_size, full_context
        self.validation, self.exclude, self.normalize, self.trim_db = validation, exclude, normalize, trim_db
        self.valid_seconds, self.built_in_seconds = valid_seconds, built_in_seconds
        self.speakers, self.seed, self.workers = speakers, seed, workers
        self.heard: dict[str, Any] = {}
        self.heard_valid: dict[str, Any] = {}
        self.note = ""

    def prepare_data(self) -> None:
        if self.dataset is not None:  # by one process for all
            find_published(self.dataset, self.root, self.download)
        elif self.root is None:
            rate = self.trainer.lightning_module.network.sample_rate
            pluck.make_corpus(self._folder(), seconds=self.built_in_seconds, sample_rate=rate)

    def setup(self, stage: str) -> None:
        if self.note:
            return  # the validation after training: the corpus is there
        network = self.trainer.lightning_module.network
        check_crop(self.crop, network.receptive_field)
        self.quantizer, self.context = network.quantizer, network.receptive_field if self.full_context else 0
        split = split_files(self._find(), validation=self.validation, exclude=self.exclude)
        make = {"sample_rate": network.sample_rate, "normalize": self.normalize, "trim_db": self.trim_db}
        self.train, self.valid = Corpus(split.train, **make), Corpus(split.validation, **make)
        self.heard, self.heard_valid = self._conditioning(network, self.train), self._conditioning(network, self.valid)
        self.note = f"{split.note}\ntrain: {self.train}\nvalid: {self.valid}"

    def _conditioning(self, network: nn.Module, corpus: Corpus) -> dict[str, Any]:
        """What data sets need for the network's conditioning."""
        conditioner, given = network.conditioner, {}
        local = conditioner.upsampling
        if local is not None and local.features.from_sound:
            given["excerpt"] = FeatureExcerpt.of(local)
            network.features(torch.zeros(1, 1))  # says now what is missing for it
        elif local is not None:
            given["features"] = FeatureFiles(corpus, local)
        if conditioner.speakers:
            names = speakers_of(corpus.paths, self.folder, self.speakers, conditioner.speakers)
            given["speakers"] = [conditioner.speakers.index(name) for name in names]
        return given

    def train_dataloader(self) -> DataLoader:
        crops = RandomCrops(
            self.train, self.crop, context=self.context, quantizer=self.quantizer, seed=self.seed, **self.heard
        )
        order = EveryFrom.unseen(self.trainer, self.batch_size)
        return DataLoader(
            crops,
            batch_size=self.batch_size,
            sampler=order,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader:
        heard = self.heard_valid
        files = WholeFiles(self.valid, self.quantizer, heard.get("speakers"), heard.get("features"))
        return DataLoader(_Marked(files, max(1, round(self.valid_seconds * self.valid.sample_rate))))

    def _folder(self) -> Path:
        return Path(self.trainer.default_root_dir) / "data" if self.root is None else Path(self.root)

    def _find(self) -> list[Path]:
        """All recordings; ``folder`` becomes where they lie, and ``speakers`` where the names of their speakers do."""
        if self.dataset is None:
            self.folder = self._folder()
            return audio_files.list_audio_files(self.folder)
        self.folder, paths, speakers = find_published(self.dataset, self.root)
        self.speakers = self.speakers or speakers
        return paths

    def code_counts(self) -> Tensor:
        """How often each code occurs in a fixed handful of crops: what a model starts from."""
        crops = RandomCrops(self.train, self.crop, quantizer=self.quantizer, seed=self.seed + 1)
        items = [crops[index] for index in range(64)]
        return sum(torch.bincount(item["codes"][item["mask"]], minlength=self.quantizer.num_codes) for item in items)

    def preview_sounds(self) -> list[np.ndarray]:
        """The held-out sounds that previews show as targets, float32 ``(time,)``."""
        return [self.valid.sound(i) for i in range(min(4, len(self.valid)))]

    def preview_conditioning(self, network: nn.Module, samples: int, num: int) -> dict[str, Any]:
        """The options of ``generate`` with which clips are conditioned as the held-out sounds, over and over, are."""
        files, given = [i % len(self.valid) for i in range(num)], {}
        if "features" in self.heard_valid:
            found = self.heard_valid["features"]
            given["condition"] = torch.stack([found.first(i, samples) for i in files])
        elif network.conditioner.upsampling is not None:
            device = next(network.parameters()).device
            sounds = [torch.from_numpy(self.valid.sound(i, 0, samples)) for i in files]
            padded = torch.stack([F.pad(sound, (0, samples - len(sound))) for sound in sounds])
            given["condition"] = network.features(padded.to(device))
        if network.speakers:
            given["speaker"] = [self.heard_valid["speakers"][i] for i in files]
        return given


class _Marked(Dataset[dict[str, Tensor]]):
    """The first ``samples`` samples of the files, file by file from its start, with a mask in which all count."""

    def __init__(self, files: WholeFiles, samples: int):
        self.files = files
        before = np.cumsum(files.corpus.lengths) - files.corpus.lengths
        self.lengths = np.minimum(files.corpus.lengths, samples - before)
        self.lengths = self.lengths[self.lengths > 0]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = self.files[index]
        codes = item["codes"][: self.lengths[index]]
        return item | {"codes": codes, "mask": torch.ones_like(codes, dtype=torch.bool)}
