"""Training of a vocoder that generates all samples at once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from wavedil.audio.data.crops import FeatureExcerpt, SoundCrops
from wavedil.audio.models.vocoder import Vocoder
from wavedil.core.schema import PathText, Positive, Seconds, checked
from wavedil.errors import WavedilError
from wavedil.train.data import Count, Decay, Fraction, OptionalCount, Seed, Workers, activation_bytes
from wavedil.train.module import MetricNames, TrainingModule, describe_network
from wavedil.train.previews.vocoder import VocoderPreviews, VocoderSamples
from wavedil.train.recordings import RecordingsData
from wavedil.weights import check_savable


class VocoderModule(TrainingModule):
    """Trains a vocoder with the loss of its generator, on log-mels that are computed from the crops.

    Batches are dictionaries with ``sound``, ``(batch, margin + time + margin)``; see
    :class:`wavedil.audio.data.crops.FeatureExcerpt`.

    Args:
        network: a :class:`wavedil.audio.models.vocoder.Vocoder`.
        optimizer: builds the optimizer from the parameters; in a recipe, a class and its arguments.
        warmup_steps: steps until the full learning rate.
        lr_decay: fraction of the budget over which the learning rate falls linearly to zero.
        ema_decay: decay of the exponential moving average (EMA) of the weights, which is validated and saved, e.g.
            0.999; 0 for none.
        compile: train with ``torch.compile``; saved files do not depend on it.
    """

    metric_names = MetricNames("train_loss", "loss", "valid_loss", "held-out loss {:.4f}", "samples")
    previews_class, samples_class = VocoderPreviews, VocoderSamples

    @checked
    def __init__(
        self,
        network: Vocoder,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        warmup_steps: OptionalCount = 100,
        lr_decay: Fraction = 1.0,
        ema_decay: Decay = 0.0,
        compile: bool = False,
    ):
        super().__init__(optimizer, warmup_steps, lr_decay, ema_decay=ema_decay, compile=compile)
        check_savable(network)
        self.network = network

    def summary(self) -> str:
        return describe_network(self.network)

    def num_items(self, batch: dict[str, Tensor]) -> int:
        return batch["sound"].shape[0] * (batch["sound"].shape[1] - 2 * self.network.features.margin)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        trainer = self.trainer
        part = batch_idx % trainer.accumulate_grad_batches
        with self._seeded(trainer.global_step, part, self.global_rank):
            return self.call(self.network.loss, *self._sound_and_mels(batch))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with self._seeded(batch_idx):
            loss = self.eval_network.loss(*self._sound_and_mels(batch))
        self.log("valid/loss", loss, batch_size=len(batch["sound"]), on_epoch=True, sync_dist=True)

    def _sound_and_mels(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        features, sound = self.network.features, batch["sound"]
        return sound[:, None, features.margin : sound.shape[1] - features.margin], features.from_excerpt(sound)

    @contextmanager
    def _seeded(self, *numbers: int) -> Iterator[None]:
        """Random numbers that depend on the run's seed and ``numbers`` only, so that a resumed run repeats them."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(np.random.default_rng([self.seed, *numbers]).integers(2**63)))
            yield


class VocoderData(RecordingsData):
    """Random crops of a folder of recordings, split into training and validation by file.

    Sample rate and features are the network's.

    Args:
        root, dataset, download, validation, exclude, normalize, trim_db, built_in_seconds: see
            :class:`wavedil.train.AudioData`.
        crop: samples in each crop; a multiple of the features' hop length.
        batch_size: crops in a batch.
        valid_seconds: seconds of held-out crops in each validation, the same each time.
        max_skipped: maximum number of training files that may become unreadable during training, as in AudioData.
        seed: seed of the crops.
        num_workers: number of worker processes of the data loader.
    """

    @checked
    def __init__(
        self,
        root: PathText | None = None,
        dataset: str | None = None,
        download: bool = False,
        crop: Count = 12800,
        batch_size: Count = 8,
        validation: str | None = None,
        exclude: str | None = None,
        normalize: str | None = None,
        trim_db: Positive | None = None,
        valid_seconds: Seconds = 20.0,
        built_in_seconds: Seconds = 150.0,
        max_skipped: OptionalCount = 0,
        seed: Seed = 0,
        num_workers: Workers = 0,
    ):
        recordings = root, dataset, download, batch_size, validation, exclude, normalize, trim_db
        super().__init__(*recordings, built_in_seconds, seed, num_workers)
        self.crop, self.valid_seconds, self.max_skipped = crop, valid_seconds, max_skipped

    def read_data(self) -> str:
        network = self.network()
        if self.crop % network.hop_length:
            nearest = max(1, round(self.crop / network.hop_length)) * network.hop_length
            raise WavedilError(
                f"data.crop is {self.crop} samples: expected a multiple of the hop length of {network.hop_length}, "
                f"e.g. {nearest}"
            )
        positions = self.crop // network.hop_length if network.works_on_frames else self.crop
        self.check_batch_memory(positions * activation_bytes(network), f"data.crop is {self.crop}")
        network.features(torch.zeros(1, 1))  # raises now if a package is missing
        self.excerpt = FeatureExcerpt(network.features)
        return self.read_recordings(network.sample_rate)[0]

    def train_dataloader(self) -> DataLoader:
        options = {"excerpt": self.excerpt, "seed": self.seed, "max_skipped": self.max_skipped}
        return self.endless_loader(SoundCrops(self.train, self.crop, **options))

    def val_dataloader(self) -> DataLoader:
        size = max(1, round(self.valid_seconds * self.valid.sample_rate / self.crop))
        crops = SoundCrops(self.valid, self.crop, excerpt=self.excerpt, size=size)
        return DataLoader(crops, batch_size=self.batch_size)
