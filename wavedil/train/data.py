"""Folders of recordings as training data."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wavedil.audio import io, pluck
from wavedil.audio.corpus import Corpus, RandomCrops, WholeFiles, check_crop, split_files
from wavedil.errors import WavedilError
from wavedil.train.order import EveryFrom


class AudioData(L.LightningDataModule):
    """Random crops of a folder of recordings, split into training and validation by file.

    The sample rate, the quantiser and the receptive field are the network's: what is said once cannot disagree.

    Args:
        root: folder of sound files, searched with its subfolders; null for the built-in plucked strings, which are
            written to ``RUN/data``.
        crop: samples in each crop; must be longer than the receptive field.
        batch_size: crops in a batch.
        full_context: count only samples that see their whole past (and file starts); otherwise all samples count, also
            those whose past was cut off by the crop.
        validation: null holds out every tenth of the sorted files; or a regular expression on paths, without suffix,
            e.g. ``_[0-4]$`` for the official test split of the Free Spoken Digit Dataset.
        exclude: regular expression of files to leave out altogether.
        normalize: ``peak``, ``rms`` or null; see :class:`wavedil.audio.corpus.Corpus`.
        trim_db: cut silence off the ends of each file: this many dB below its loudest frame; null keeps all.
        valid_seconds: how much of the held-out sound each validation hears, from the first file on.
        built_in_seconds: length of the built-in sound.
        seed: of the crops.
        workers: processes that read crops.
    """

    def __init__(
        self,
        root: str | None = None,
        crop: int = 8000,
        batch_size: int = 4,
        full_context: bool = False,
        validation: str | None = None,
        exclude: str | None = None,
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
        self.root, self.crop, self.batch_size, self.full_context = root, crop, batch_size, full_context
        self.validation, self.exclude, self.normalize, self.trim_db = validation, exclude, normalize, trim_db
        self.valid_seconds, self.built_in_seconds = valid_seconds, built_in_seconds
        self.seed, self.workers = seed, workers
        self.note = ""

    def prepare_data(self) -> None:
        if self.root is None:  # by one process for all
            rate = self.trainer.lightning_module.network.sample_rate
            pluck.make_corpus(self._folder(), seconds=self.built_in_seconds, sample_rate=rate)

    def setup(self, stage: str) -> None:
        if self.note:
            return  # the validation after training: the corpus is there
        network = self.trainer.lightning_module.network
        check_crop(self.crop, network.receptive_field)
        self.quantiser, self.context = network.quantiser, network.receptive_field if self.full_context else 0
        root = self._folder()
        split = split_files(io.list_audio_files(root), validation=self.validation, exclude=self.exclude)
        make = {"sample_rate": network.sample_rate, "normalize": self.normalize, "trim_db": self.trim_db}
        self.train, self.valid = Corpus(split.train, **make), Corpus(split.validation, **make)
        self.note = f"{split.note}\ntrain: {self.train}\nvalid: {self.valid}"

    def train_dataloader(self) -> DataLoader:
        crops = RandomCrops(self.train, self.crop, context=self.context, quantiser=self.quantiser, seed=self.seed)
        order = EveryFrom.unseen(self.trainer, self.batch_size)
        return DataLoader(
            crops,
            batch_size=self.batch_size,
            sampler=order,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(
            _Marked(WholeFiles(self.valid, self.quantiser), max(1, round(self.valid_seconds * self.valid.sample_rate)))
        )

    def _folder(self) -> Path:
        return Path(self.trainer.default_root_dir) / "data" if self.root is None else Path(self.root)

    def code_counts(self) -> Tensor:
        """How often each code occurs in a fixed handful of crops: what a model starts from."""
        crops = RandomCrops(self.train, self.crop, quantiser=self.quantiser, seed=self.seed + 1)
        items = [crops[index] for index in range(64)]
        return sum(torch.bincount(item["codes"][item["mask"]], minlength=self.quantiser.codes) for item in items)

    def preview_sounds(self) -> list[np.ndarray]:
        """The held-out sounds that previews show as targets, float32 ``(time,)``."""
        return [self.valid.sound(i) for i in range(min(4, len(self.valid)))]


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
        codes = self.files[index]["codes"][: self.lengths[index]]
        return {"codes": codes, "mask": torch.ones_like(codes, dtype=torch.bool)}
