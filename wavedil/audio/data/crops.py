"""Crops and complete files of a corpus as items for training and evaluation.

An item is a dictionary of tensors:

- ``codes``: int64 ``(time,)``.
- ``mask``: bool ``(time,)``, the samples that count in the loss; at least one in each crop. Crops only.
- ``sound``: float32 ``(time,)``, the sound of the file; of a crop, the excerpt of :class:`FeatureExcerpt`.
- ``frames``: int64 ``(frames,)``, see :class:`FeatureExcerpt`. Crops only.
- ``features``: float32 ``(channels, frames)``, from :class:`wavedil.audio.data.feature_files.FeatureFiles`. A crop has
  ``reach`` additional frames on each side.
- ``speaker``: int64 scalar, index of the file's speaker.

``sound`` and ``frames`` of a crop, ``features`` and ``speaker`` exist only for models that are conditioned on them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavedil.audio.conditioning.features import Features
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.feature_files import FeatureFiles
from wavedil.audio.distributions.quantizers import MuLaw, Quantizer
from wavedil.core.schema import checked
from wavedil.errors import WavedilError
from wavedil.skipped import SkippedFiles


def check_crop(length: int, receptive_field: int) -> None:
    """Raises WavedilError if ``length`` is not above ``receptive_field``, both in samples."""
    if length <= receptive_field:
        raise WavedilError(
            f"crop is {length} samples: expected more than the receptive field of {receptive_field} samples, or no "
            f"prediction has its full context; use at least {receptive_field + 1}, better {2 * receptive_field} "
            "samples, or fewer dilations"
        )


class FeatureExcerpt:
    """The excerpt of sound around a crop from which the crop's features are computed.

    Features of the excerpt equal the features of the complete file at the same frames.

    Args:
        features: of the model; sets the hop length, of which crops start at multiples, and the margin.
        reach: frames on each side of the crop that the model sees.
    """

    def __init__(self, features: Features, reach: int = 0):
        # Only numbers are kept, since data workers copy this object.
        self.hop_length, self.reach, self.margin = features.hop_length, reach, features.margin

    def cut(
        self, file_length: int, read: Callable[[int, int], np.ndarray], start: int, length: int
    ) -> dict[str, Tensor]:
        """Reads the excerpt around a crop.

        Args:
            file_length: samples in the file.
            read: returns samples of the file; called with a first sample and a number of samples.
            start, length: the crop, in samples.

        Returns:
            ``sound``: the samples of the crop's frames, ``reach`` frames before and after, and ``margin`` samples more
            on each side; zero outside the file. ``frames``: for each frame of the excerpt without its margins, the
            index of the frame to use; frames outside the file are replaced by the file's first or last frame.
        """
        first = start // self.hop_length - self.reach
        count = -(-length // self.hop_length) + 2 * self.reach
        begin = first * self.hop_length - self.margin
        sound = torch.zeros(count * self.hop_length + 2 * self.margin)
        inside = max(begin, 0)
        found = torch.from_numpy(read(inside, begin + len(sound) - inside))
        sound[inside - begin : inside - begin + len(found)] = found
        frames = torch.arange(first, first + count).clamp(0, -(-file_length // self.hop_length) - 1) - first
        return {"sound": sound, "frames": frames}


class RandomCrops(Dataset[dict[str, Tensor]]):
    """Crops at random positions of a corpus. See the module's docstring for the items.

    Positions are uniform over the samples of the corpus, so a file is drawn as often as it is long; or files are drawn
    by ``weights``, and positions are uniform over a file.

    A crop is from one file. The history before a file's first sample is zero, as in generation, so in a crop at the
    start of a file all samples count; in other crops the samples from ``context`` on count, whose receptive field is
    inside the crop. If the file is shorter than the crop, the crop is padded at the end with the zero-amplitude code.

    Item i depends on ``seed``, i and the files only: a run that resumes after n items continues with item n, and the
    number of workers does not matter. If the file of a crop cannot be read, another crop replaces it, up to
    ``max_skipped`` files; see :class:`wavedil.skipped.SkippedFiles`.

    Args:
        corpus: recordings to crop.
        length: samples in each crop.
        context: number of samples at the start of a crop that do not count, usually the receptive field; with 0 all
            samples count.
        quantizer: of the codes; default 256 mu-law codes.
        seed: non-negative integer.
        size: number of items.
        excerpt: for models whose features are computed from the sound; crops then start at multiples of the hop length.
        features: for models whose features are read from files; crops then start at multiples of the hop length.
        speakers: index of each file's speaker.
        weights: relative frequency of each file; None for its length.
        max_skipped: largest number of files that cannot be read.

    Raises:
        WavedilError: ``context`` is not between 0 and ``length`` minus the hop length (or 1, without features); when an
            item is read, more files than ``max_skipped`` cannot be read.
    """

    def __init__(
        self,
        corpus: Corpus,
        length: int,
        *,
        context: int = 0,
        quantizer: Quantizer | None = None,
        seed: int = 0,
        size: int = 2**31,
        excerpt: FeatureExcerpt | None = None,
        features: FeatureFiles | None = None,
        speakers: Sequence[int] | None = None,
        weights: np.ndarray | None = None,
        max_skipped: int = 0,
    ) -> None:
        self.hop_length = getattr(excerpt or features, "hop_length", 1)
        if not 0 <= context <= length - self.hop_length:
            difference = f" by a hop of {self.hop_length}" if excerpt or features else ""
            raise WavedilError(
                f"length is {length} and context {context}: length must exceed context{difference}, and context must "
                "be at least 0"
            )
        self.excerpt, self.features, self.speakers = excerpt, features, speakers
        self.corpus, self.length, self.context = corpus, length, context
        self.quantizer, self.seed, self.size = quantizer or MuLaw(256), seed, size
        self.skipped = SkippedFiles(len(corpus), max_skipped)
        self._ends = np.cumsum(corpus.lengths)
        self._weights = None if weights is None else np.cumsum(weights, dtype=np.float64)

    def __len__(self) -> int:
        return self.size

    def place(self, index: int, attempt: int = 0) -> tuple[int, int]:
        """File number and first sample of crop ``index``, or of its replacement number ``attempt``."""
        generator = np.random.default_rng([self.seed, index, attempt] if attempt else [self.seed, index])
        if self._weights is None:
            sample = int(generator.integers(self._ends[-1]))
            file = int(np.searchsorted(self._ends, sample, side="right"))
            sample -= int(self._ends[file] - self.corpus.lengths[file])
        else:
            drawn = generator.random() * self._weights[-1]
            file = min(int(np.searchsorted(self._weights, drawn, side="right")), len(self.corpus) - 1)
            sample = int(generator.integers(self.corpus.lengths[file]))
        # The drawn sample is at a random position among those that count; then the crop is moved into the file.
        start = sample - int(generator.integers(self.context, self.length))
        last = max(int(self.corpus.lengths[file]) - self.length, 0)
        # Rounded to the start of a frame; the last crop may therefore extend past the end of the file.
        return file, min(max(start, 0) // self.hop_length, -(-last // self.hop_length)) * self.hop_length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.size:
            raise IndexError(f"crop {index} of {self.size}")
        return self.skipped.read(partial(self.place, index), self._crop)

    def origin(self, index: int) -> str:
        """File and first sample of crop ``index``, for messages."""
        file, start = self.skipped.origin(partial(self.place, index))
        return f"{self.corpus.paths[file]} from sample {int(self.corpus.starts[file]) + start}"

    def _crop(self, file: int, start: int) -> dict[str, Tensor]:
        before = min(start, 1)  # the sample before the crop, for the pre-emphasis
        sound = torch.from_numpy(self.corpus.sound(file, start - before, self.length + before))
        encoded = self.quantizer.encode_sound(sound[before:], sound[0] if before else None)
        codes = torch.full((self.length,), self.quantizer.zero, dtype=torch.int64)
        codes[: len(encoded)] = encoded
        mask = torch.zeros(self.length, dtype=torch.bool)
        mask[self.context if start else 0 : len(encoded)] = True
        item = {"codes": codes, "mask": mask}
        if self.excerpt is not None:
            read = partial(self.corpus.sound, file)
            item |= self.excerpt.cut(int(self.corpus.lengths[file]), read, start, self.length)
        if self.features is not None:
            item["features"] = self.features.cut(file, start, self.length)
        if self.speakers is not None:
            item["speaker"] = torch.tensor(self.speakers[file])
        return item


class SoundCrops(RandomCrops):
    """Crops as their excerpts of sound only, for networks without codes: items with ``sound``."""

    def _crop(self, file: int, start: int) -> dict[str, Tensor]:
        read = partial(self.corpus.sound, file)
        return {"sound": self.excerpt.cut(int(self.corpus.lengths[file]), read, start, self.length)["sound"]}


def balanced_weights(lengths: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Weights of files for :class:`RandomCrops` with which each group, e.g. a speaker, is drawn equally often.

    Within a group, files are drawn by their length.

    Args:
        lengths: samples of each file.
        groups: index of each file's group.
    """
    groups = np.asarray(groups)
    return lengths / np.bincount(groups, lengths)[groups]


class WholeFiles(Dataset[dict[str, Tensor]]):
    """The files of a corpus in order, for evaluation. See the module's docstring for the items.

    Args:
        corpus: recordings.
        quantizer: of the codes; default 256 mu-law codes.
        speakers: index of each file's speaker.
        features: for models whose features are read from files.
    """

    def __init__(
        self,
        corpus: Corpus,
        quantizer: Quantizer | None = None,
        speakers: Sequence[int] | None = None,
        features: FeatureFiles | None = None,
    ) -> None:
        self.corpus, self.quantizer = corpus, quantizer or MuLaw(256)
        self.speakers, self.features = speakers, features

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"file {index} of {len(self)}")
        sound = torch.from_numpy(self.corpus.sound(index))
        item = {"codes": self.quantizer.encode_sound(sound), "sound": sound}
        if self.features is not None:
            item["features"] = self.features.whole(index)
        if self.speakers is not None:
            item["speaker"] = torch.tensor(self.speakers[index])
        return item


class FirstSamples(Dataset[dict[str, Tensor]]):
    """The first ``samples`` samples of the files, one item per file; the last one is cut. All masks are True."""

    @checked
    def __init__(self, files: WholeFiles, samples: int):
        self.files = files
        start = np.cumsum(files.corpus.lengths) - files.corpus.lengths
        self.lengths = np.minimum(files.corpus.lengths, samples - start)
        self.lengths = self.lengths[self.lengths > 0]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = self.files[index]
        codes = item["codes"][: self.lengths[index]]
        return item | {"codes": codes, "mask": torch.ones_like(codes, dtype=torch.bool)}
