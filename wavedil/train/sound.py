"""Training of an audio generator on folders of recordings."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from wavedil.audio.conditioning.speakers import speakers_of
from wavedil.audio.data.continued_crops import ContinuedCrops
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import FeatureExcerpt, FirstSamples, RandomCrops, WholeFiles, balanced_weights, check_crop
from wavedil.audio.data.feature_files import FeatureFiles
from wavedil.audio.evaluation import nll_by_chunk
from wavedil.audio.models.wavenet import WaveNet
from wavedil.core.schema import PathText, Positive, Seconds, checked
from wavedil.errors import WavedilError, with_article
from wavedil.train.carried_state import CarriedState
from wavedil.train.data import Count, Decay, Fraction, OptionalCount, Seed, Workers, activation_bytes
from wavedil.train.module import MetricNames, TrainingModule, describe_network
from wavedil.train.previews.sound import SoundPreviews, SoundSamples
from wavedil.train.recordings import RecordingsData
from wavedil.weights import check_savable


class AudioModule(TrainingModule):
    """Trains a WaveNet by maximum likelihood; the loss is logged in bits per sample.

    Training batches are dictionaries with ``codes``, int64 ``(batch, time)``; ``mask``, bool of the same shape, True
    where a sample counts in the loss; and for a conditional network ``speaker``, int64 ``(batch,)``, and the features
    of :class:`wavedil.audio.data.corpus.RandomCrops`. Validation batches hold one sound each.

    With ``lr_decay`` below 1 the learning rate is a trapezoid (Hägele et al. 2024, arXiv 2405.18392).

    Args:
        network: a :class:`wavedil.audio.WaveNet`.
        optimizer: builds the optimizer from the parameters; in a recipe, a class and its arguments.
        warmup_steps: steps until the full learning rate.
        lr_decay: fraction of the budget over which the learning rate falls linearly to zero.
        drop_condition: fraction of the crops whose conditioning is replaced by zeros, for classifier-free guidance
            (Ho & Salimans 2022, arXiv 2207.12598); 0.1 is usual.
        ema_decay: decay of the exponential moving average (EMA) of the weights, which is validated and saved, e.g.
            0.999; 0 for none.
        compile: train with ``torch.compile``; saved files do not depend on it.
    """

    metric_names = MetricNames(
        "train_bits", "bits/sample", "valid_bits", "held out {:.3f}", "samples", scale=1 / math.log(2)
    )
    previews_class, samples_class = SoundPreviews, SoundSamples

    @checked
    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        warmup_steps: OptionalCount = 100,
        lr_decay: Fraction = 1.0,
        drop_condition: Fraction = 0.0,
        ema_decay: Decay = 0.0,
        compile: bool = False,
    ):
        super().__init__(optimizer, warmup_steps, lr_decay, ema_decay=ema_decay, compile=compile)
        check_savable(network)
        if not isinstance(network, WaveNet):
            raise WavedilError(f"network is {with_article(network)}: expected a WaveNet")
        self.network, self.drop_condition = network, drop_condition
        self.carried = CarriedState()

    def summary(self) -> str:
        return describe_network(self.network)

    def num_items(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["mask"].sum()  # a tensor: .item() would wait for the device

    def initialize(self, data: L.LightningDataModule | None) -> None:
        if hasattr(data, "code_counts"):
            self.network.set_prior(data.code_counts())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if "start" in batch:
            loss = self._continued_loss(batch)
        else:
            loss = self.call(self.network.loss, batch["codes"], batch["mask"], self.condition(batch))
        self.log("train/bits", loss.detach() / math.log(2), batch_size=len(batch["codes"]))
        return loss

    def _continued_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of crops that continue those of the previous batch; see ``truncated_bptt`` of :class:`AudioData`."""
        network = self.network
        if network.stack.checkpoint_layers:
            raise WavedilError("data.truncated_bptt is true: set checkpoint_layers to 0 and shorten data.crop instead")
        state = self.carried.before(batch, network.start)
        parameters, state = self.call(network.step, batch["codes"], state, self.condition(batch))
        self.carried.store(batch, state)
        return network.distribution.nll(parameters, batch["codes"], batch["mask"]).mean()

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.carried.start_batch(self.trainer.global_step)

    def on_restart(self) -> None:
        self.carried = CarriedState()

    def undo_incomplete_step(self) -> None:
        super().undo_incomplete_step()
        self.carried.undo_step(self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["carried_state"] = self.carried.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.carried.load_state_dict(checkpoint.get("carried_state", []), self.global_rank)

    def condition(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Conditioning of the crops, zero where it is dropped; None for an unconditional network."""
        condition = self.network.conditioner.crop_condition(batch)
        if condition is None or self.drop_condition == 0:
            return condition
        # Seeded by the step, not the global generator: a resumed run drops what an uninterrupted one drops.
        generator = torch.Generator().manual_seed(self.trainer.global_step * self.trainer.world_size + self.global_rank)
        kept = torch.rand(len(condition), 1, 1, generator=generator) >= self.drop_condition
        return condition * kept.to(condition.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        network, codes = self.eval_network, batch["codes"]
        if len(codes) != 1:
            raise WavedilError(f"batch_size of the validation loader is {len(codes)}: expected 1")
        speaker = batch["speaker"].tolist() if "speaker" in batch else None
        features = batch.get("features")
        if features is None and network.conditioner.upsampling is not None:
            features = network.features(batch["sound"])
        nats = torch.cat(list(nll_by_chunk(network, codes, network.conditioning(features, speaker))))
        if "mask" in batch:
            nats = nats[batch["mask"][0]]
        self.log("valid/bits", nats.mean() / math.log(2), batch_size=len(nats), on_epoch=True, sync_dist=True)


class AudioData(RecordingsData):
    """Random crops of a folder of recordings, split into training and validation by file.

    Sample rate, quantizer and receptive field are the network's.

    Args:
        root: folder of audio files, searched with its subfolders; null for built-in plucked strings, which are written
            to ``RUN/data``. If the network's features are not computed from sound, each file has a .npy beside it; see
            :class:`wavedil.audio.data.feature_files.FeatureFiles`.
        dataset: a published data set below ``root``, in the layout of ``torchaudio.datasets``: ``YESNO``, ``LJSPEECH``,
            ``VCTK_092`` or e.g. ``LIBRITTS/train-clean-100``.
        download: download ``dataset`` with torchaudio if it is missing.
        crop: samples in each crop; must be longer than the receptive field, except with ``truncated_bptt``.
        batch_size: crops in a batch.
        full_context: only samples whose full receptive field is in the crop, or at the start of a file, count in the
            loss; otherwise all samples count.
        truncated_bptt: truncated back-propagation through time (Williams & Peng 1990), for a receptive field longer
            than a crop: each row of a batch continues where it ended in the last batch. The network's streaming state
            is carried over, and gradients end at the start of the crop.
        validation: null holds out every tenth of the sorted files; or a regular expression on paths without suffix,
            e.g. ``_[0-4]$`` for the official test split of the Free Spoken Digit Dataset.
        exclude: files to leave out: a regular expression on paths without suffix, or ``@FILE`` with one path per line,
            relative to the folder of FILE, as ``wavedil check DATA --list FILE`` writes it.
        speakers: source of the speakers' names, for a network with speakers: ``folders``, a .csv file with the columns
            file and speaker, or a regular expression on paths without suffix whose group is the name, e.g.
            ``_([a-z]+)_``; see :mod:`wavedil.audio.conditioning.speakers`.
        balance: how often crops come from a file: null by its length; ``files`` equally often from each file;
            ``speakers`` equally often from each speaker, and by length from the files of a speaker.
        normalize: ``peak``, ``rms`` or null; see :class:`wavedil.audio.data.corpus.Corpus`.
        trim_db: trim silence at the ends of each file, this many dB below its loudest frame; null for no trimming.
        valid_seconds: seconds of held-out sound in each validation, from the first file on.
        built_in_seconds: length of the built-in audio.
        max_skipped: maximum number of training files that may become unreadable during training. Each is logged, and
            its crops are replaced. With 0 the first one ends training. In validation it is always an error.
        seed: seed of the crops.
        num_workers: number of worker processes of the data loader.
    """

    @checked
    def __init__(
        self,
        root: PathText | None = None,
        dataset: str | None = None,
        download: bool = False,
        crop: Count = 8000,
        batch_size: Count = 4,
        full_context: bool = False,
        truncated_bptt: bool = False,
        validation: str | None = None,
        exclude: str | None = None,
        speakers: PathText | None = None,
        balance: Literal["files", "speakers"] | None = None,
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
        if balance not in (None, "files", "speakers"):
            raise WavedilError(f"balance is {balance!r}: expected files, speakers or null")
        if truncated_bptt and (full_context or balance):
            raise WavedilError(
                f"truncated_bptt is true: expected full_context false and balance null, because all samples of all "
                f"files are used in order; they are {full_context} and {balance}"
            )
        self.crop, self.full_context, self.balance, self.truncated_bptt = crop, full_context, balance, truncated_bptt
        self.speakers, self.valid_seconds, self.max_skipped = speakers, valid_seconds, max_skipped

    def read_data(self) -> str:
        network = self.network()
        self.check_batch_memory(self.crop * activation_bytes(network), f"data.crop is {self.crop}")
        if not self.truncated_bptt:
            check_crop(self.crop, network.receptive_field)
        self.quantizer, self.context = network.quantizer, network.receptive_field if self.full_context else 0
        note, folder, source = self.read_recordings(network.sample_rate)
        if self.balance == "speakers" and not network.speakers:
            raise WavedilError("balance is speakers, but the network has none: set network.speakers, or use files")
        self.train_conditioning, self.valid_conditioning = (
            self._conditioning(network, corpus, folder, self.speakers or source) for corpus in (self.train, self.valid)
        )
        return note

    @staticmethod
    def _conditioning(network: nn.Module, corpus: Corpus, folder: Path, speakers: str | None) -> dict[str, Any]:
        """Arguments of the data sets for the conditioning of the network."""
        conditioner, arguments = network.conditioner, {}
        local = conditioner.upsampling
        if local is not None and local.features.from_sound:
            arguments["excerpt"] = FeatureExcerpt(local.features, local.reach)
            network.features(torch.zeros(1, 1))  # raises now if a package is missing
        elif local is not None:
            arguments["features"] = FeatureFiles(corpus, local)
        if conditioner.speakers:
            names = speakers_of(corpus.paths, folder, speakers, conditioner.speakers)
            arguments["speakers"] = np.array([conditioner.speakers.index(name) for name in names])
        return arguments

    def train_dataloader(self) -> DataLoader:
        options = {"quantizer": self.quantizer, "seed": self.seed, "max_skipped": self.max_skipped}
        options |= self.train_conditioning
        if self.truncated_bptt:
            lanes = self.batch_size * self.trainer.world_size
            return self.endless_loader(ContinuedCrops(self.train, self.crop, lanes=lanes, **options))
        crops = RandomCrops(self.train, self.crop, context=self.context, weights=self._weights(), **options)
        return self.endless_loader(crops)

    def _weights(self) -> np.ndarray | None:
        """How often crops come from each training file."""
        if self.balance == "files":
            return np.ones(len(self.train))
        if self.balance == "speakers":
            return balanced_weights(self.train.lengths, self.train_conditioning["speakers"])
        return None

    def val_dataloader(self) -> DataLoader:
        conditioning = self.valid_conditioning
        files = WholeFiles(self.valid, self.quantizer, conditioning.get("speakers"), conditioning.get("features"))
        return DataLoader(FirstSamples(files, max(1, round(self.valid_seconds * self.valid.sample_rate))))

    def code_counts(self) -> Tensor:
        """Counts of the codes in 64 random crops, ``(num_codes,)``, to initialize the output distribution."""
        crops = RandomCrops(
            self.train, self.crop, quantizer=self.quantizer, seed=self.seed + 1, max_skipped=self.max_skipped
        )
        items = [crops[index] for index in range(64)]
        return sum(torch.bincount(item["codes"][item["mask"]], minlength=self.quantizer.num_codes) for item in items)

    def preview_files(self, num: int) -> list[int]:
        """Numbers of held-out files: from the first one on, with speakers in turn, repeated if there are too few."""
        seen, turns = Counter(), []
        for speaker in self.valid_conditioning.get("speakers", np.zeros(len(self.valid), int)).tolist():
            turns.append(seen[speaker])
            seen[speaker] += 1
        order = sorted(range(len(turns)), key=turns.__getitem__)
        return [order[i % len(order)] for i in range(num)]

    def preview_sounds(self) -> list[np.ndarray]:
        """Held-out sounds, float32 ``(time,)``: the first 4, or one of each of the first 8 speakers."""
        num = min(len(self.valid), max(4, min(8, len(self.network().speakers))))
        return [self.valid.sound(i) for i in self.preview_files(num)]

    def preview_conditioning(self, network: nn.Module, samples: int, num: int) -> dict[str, Any]:
        """Options of ``generate`` for ``num`` clips with the conditioning of held-out sounds, repeated if too few."""
        indices, options = self.preview_files(num), {}
        if "features" in self.valid_conditioning:
            features = self.valid_conditioning["features"]
            options["condition"] = torch.stack([features.first(i, samples) for i in indices])
        elif network.conditioner.upsampling is not None:
            device = next(network.parameters()).device
            sounds = [torch.from_numpy(self.valid.sound(i, 0, samples)) for i in indices]
            padded = torch.stack([F.pad(sound, (0, samples - len(sound))) for sound in sounds])
            options["condition"] = network.features(padded.to(device))
        if network.speakers:
            options["speaker"] = [int(self.valid_conditioning["speakers"][i]) for i in indices]
        return options
