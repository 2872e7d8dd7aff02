"""The base class of the data modules that train on folders of recordings."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import numpy as np

from wavedil.audio.data import audio_files, pluck
from wavedil.audio.data.check import check_recordings
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.published import find_published
from wavedil.audio.data.resampling import log_resampling
from wavedil.audio.data.split import split_files
from wavedil.data_check import DataCheck
from wavedil.errors import WavedilError
from wavedil.progress import Bar
from wavedil.train.data import TrainingData


class RecordingsData(TrainingData):
    """Recordings, split into training and validation by file, at the network's sample rate.

    Subclasses make the items. Their arguments are described in :class:`wavedil.train.AudioData`.

    Attributes:
        train, valid: the recordings, after ``setup``.
    """

    def __init__(
        self,
        root: str | None,
        dataset: str | None,
        download: bool,
        batch_size: int,
        validation: str | None,
        exclude: str | None,
        normalize: str | None,
        trim_db: float | None,
        built_in_seconds: float,
        seed: int,
        num_workers: int,
    ):
        super().__init__(batch_size, seed, num_workers)
        if download and dataset is None:
            raise WavedilError("download is true, but dataset is null: expected a name, e.g. YESNO")
        self.root, self.dataset, self.download = root, dataset, download
        self.validation, self.exclude, self.normalize, self.trim_db = validation, exclude, normalize, trim_db
        self.built_in_seconds = built_in_seconds

    def prepare_data(self) -> None:
        if self.dataset is not None:
            find_published(self.dataset, self.root, self.download)
        elif self.root is None:
            rate = self.network().sample_rate
            pluck.make_corpus(self.built_in_folder(), seconds=self.built_in_seconds, sample_rate=rate)

    def read_recordings(self, sample_rate: int) -> tuple[str, Path, str | None]:
        """Reads the recordings; returns lines about them, their folder, and the data set's source of speaker names."""
        if self.dataset is not None:
            folder, paths, speakers = find_published(self.dataset, self.root)
        else:
            folder = self.built_in_folder() if self.root is None else Path(self.root)
            paths, speakers = audio_files.list_audio_files(folder), None
        split = split_files(paths, validation=self.validation, exclude=self.exclude)
        options = {"sample_rate": sample_rate, "normalize": self.normalize, "trim_db": self.trim_db}
        with Bar("reading audio files") as bar:
            self.train = Corpus(split.train, **options, progress=bar.update)
            self.valid = Corpus(split.validation, **options, progress=bar.update)
        is_one_file = split.train[0].path == split.validation[0].path
        log_resampling(self.train.rates + (Counter() if is_one_file else self.valid.rates), sample_rate)
        return f"{split.note}\ntrain: {self.train}\nvalid: {self.valid}", folder, speakers

    def check_data(self, module: L.LightningModule, progress: Callable[[int, int], None] | None = None) -> DataCheck:
        """Checks all files before training, for ``wavedil check -c RECIPE``."""
        folder = self.root if self.dataset is None else find_published(self.dataset, self.root)[0]
        return check_recordings(folder, exclude=self.exclude, progress=progress)

    def data_files(self) -> list[Sequence[Path]]:
        return [self.train.paths, self.valid.paths]

    def preview_files(self, num: int) -> list[int]:
        """Numbers of held-out files, repeated if there are too few."""
        return [index % len(self.valid) for index in range(num)]

    def preview_sounds(self) -> list[np.ndarray]:
        """The first held-out sounds, float32 ``(time,)``, at most 4."""
        return [self.valid.sound(index) for index in self.preview_files(min(4, len(self.valid)))]

    def preview_names(self, num: int) -> list[str]:
        """File names of held-out clips: clip i belongs to file i."""
        return [self.valid.paths[index].name for index in self.preview_files(num)]
