"""How fast crops of sound are read, beside what training takes."""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from wavedil.audio import WaveNet
from wavedil.audio.data import audio_files, pluck
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import RandomCrops
from wavedil.bench.runner import Candidate, measure
from wavedil.ops.memory import keep_freed_memory
from wavedil.packing import pack
from wavedil.shards import find_packed

WORKERS = (0, 1, 2)
#: Of the default recipe, ``pluck``.
NETWORK = {"channels": 48, "skip_channels": 96, "dilations": "1..512 x2"}
CROP, BATCH = 8000, 1


def bench_data(
    device: str,
    *,
    data: Sequence[str] = (),
    crops: int = 200,
    rounds: int = 5,
    seconds: float = 60.0,
    length: int = CROP,
    batch: int = BATCH,
    network: Mapping[str, Any] = NETWORK,
) -> dict[str, Any]:
    """Times reading crops and a training step; ratios are relative to the step. Default: data of the default recipe.

    Sound is read at the rate of the first file, so it is not resampled.

    Args:
        data: folders of audio files, packed folders or URLs; by default built-in audio, as files and packed.
            Corpora that training would keep in memory are read from disk, too.
        crops: read in each measurement.
        seconds: of built-in audio.
        length: samples in a crop.
        batch: crops in a training step.
        network: arguments of the network in training.

    Raises:
        WavedilError: a folder is missing or has no audio files.
    """
    if device == "cpu":
        keep_freed_memory()
    with ExitStack() as stack:
        places = [(str(place), Path(place)) for place in data] or stack.enter_context(_built_in(seconds))
        candidates = [Candidate("training takes", _training(network, batch, length, device), amount=batch * length)]
        sizes: list[float | None] = [None]  # bytes in the files for each sample of a crop
        for name, place in places:
            paths = audio_files.list_audio_files(place)
            rate = audio_files.info(paths[0]).sample_rate
            corpus = Corpus(paths, rate, preload_bytes=0)
            # A crop has a file's samples only as far as the file reaches.
            sound = np.average(np.minimum(corpus.lengths, length), weights=corpus.lengths) / length
            size = sound * sum(_bytes(path) for path in paths) / int(corpus.lengths.sum())
            for workers in WORKERS:
                text = f"{name}, {workers} worker{'s' * (workers != 1)}"
                read = _reading(RandomCrops(corpus, length), workers, math.ceil(crops / batch), batch)
                candidates.append(Candidate(text, read, amount=math.ceil(crops / batch) * batch * length))
                sizes.append(size)
        rows = measure(candidates, rounds=rounds, device=device, unit="samples/s", warm=1)
        del candidates  # ends the workers
    for row, size in zip(rows[1:], sizes[1:], strict=True):
        row["megabytes_per_second"] = row["median"] * size / 1e6
        row["note"] = f"{row['megabytes_per_second']:.3g} MB/s of files"
    note = "Ratios are to what training takes. Files of the disk that fit into memory are read from the system's cache."
    return {"rows": rows, "notes": [note]}


@contextmanager
def _built_in(seconds: float) -> Iterator[list[tuple[str, Path]]]:
    with tempfile.TemporaryDirectory() as folder:
        files, shards = Path(folder, "files"), Path(folder, "shards")
        pluck.make_corpus(files, seconds=seconds, sample_rate=8000)
        pack(files, shards)
        yield [("files", files), ("packed", shards)]


def _training(network: Mapping[str, Any], batch: int, length: int, device: str) -> Callable[[], None]:
    torch.manual_seed(0)
    model = WaveNet(**network).train().to(device)
    optimizer = torch.optim.Adam(model.parameters())
    codes = torch.randint(model.num_codes, (batch, length), device=device)

    def step() -> None:
        optimizer.zero_grad()
        model.loss(codes).backward()
        optimizer.step()

    return step


def _reading(dataset: RandomCrops, workers: int, batches: int, batch: int) -> Callable[[], None]:
    loader = DataLoader(dataset, batch_size=batch, sampler=range(len(dataset)), num_workers=workers)
    items: list[Iterator] = []

    def read() -> None:
        if not items:  # the first call warms up: it starts the workers
            items.append(iter(loader))
        for _ in range(batches):
            next(items[0])

    return read


def _bytes(path: Path) -> int:
    packed = find_packed(path)
    return path.stat().st_size if packed is None else packed.size
