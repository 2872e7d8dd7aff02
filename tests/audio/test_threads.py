"""One model in several Python threads at once, and in workers: each result equals that of one thread, bit for bit."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from wavedil.audio import Effect, LiveEffect, LogMel, NearestUpsampling, WaveNet, generate, stream
from wavedil.audio.effects.process import apply_model

THREADS = 4


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    mel = NearestUpsampling(LogMel(8000, n_mels=4, n_fft=64, hop_length=20))
    return WaveNet(8, 8, "1..8", num_codes=16, sample_rate=8000, condition=mel, speakers=["ann", "bob"]).eval()


@pytest.fixture(scope="module")
def effect():
    torch.manual_seed(0)
    return Effect(8, 8, "1..8", knobs={"gain": [0, 1]}, sample_rate=8000).eval()


def sound_of_stream(model, number, engine, threads=1):
    """A stream in chunks that is saved and continued after the first."""
    condition = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(number))
    options = {"condition": condition, "speaker": number % 2, "engine": engine, "threads": threads, "chunk": 50}
    chunks = stream(model, num=2, seed=number, **options)
    first = next(chunks)
    return torch.cat([first, *stream(model, state=chunks.state(), **options)], dim=2)


def sound_of_generate(model, number, engine):
    condition = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(number))
    options = {"guidance": 1.5, "prime": torch.full((1, 1, 30), 0.1 * number), "engine": engine, "seed": number}
    return generate(model, [40, 20], condition=condition, speaker=["ann", "bob"], **options)[0]


def sound_of_effect(effect, number):
    live, noise = LiveEffect(effect, {"gain": number / 8}, channels=2), np.random.default_rng(number)
    return torch.from_numpy(np.concatenate([live.process(noise.random((2, 64)) - 0.5) for _ in range(20)], axis=1))


def sound_of_model(effect, number):
    x = torch.randn(2, 1, 500, generator=torch.Generator().manual_seed(number))
    return apply_model(effect, x, torch.full((2, 1), number / 8))


@pytest.mark.parametrize(
    "make",
    [
        lambda model, effect, number: sound_of_stream(model, number, "numba"),
        lambda model, effect, number: sound_of_stream(model, number, "numba", threads=2),
        lambda model, effect, number: sound_of_stream(model, number, "torch"),
        lambda model, effect, number: sound_of_generate(model, number, "numba"),
        lambda model, effect, number: sound_of_generate(model, number, "torch"),
        lambda model, effect, number: sound_of_effect(effect, number),
        lambda model, effect, number: sound_of_model(effect, number),
    ],
    ids=["stream", "stream of two threads", "stream torch", "generate", "generate torch", "LiveEffect", "apply_model"],
)
def test_threads_get_the_results_of_one(model, effect, make):
    alone = [make(model, effect, number) for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda number: make(model, effect, number), range(THREADS)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_a_stream_that_begins_in_inference_mode_continues_outside_it(model, engine):
    options = {"condition": torch.zeros(1, 4, 8), "speaker": 0, "engine": engine, "chunk": 50, "seed": 3}
    with torch.inference_mode():
        chunks = stream(model, **options)
        first = next(chunks)
    assert torch.equal(torch.cat([first, *chunks], 2), torch.cat(list(stream(model, **options)), 2))


class Clips(IterableDataset):
    """Generated clips and processed sound."""

    def __init__(self, model, effect):
        self.model, self.effect = model, effect

    def __iter__(self):
        yield sound_of_stream(self.model, 3, "numba")
        yield sound_of_effect(self.effect, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_of_a_data_loader_generate(model, effect):
    clips = Clips(model, effect)
    expected = list(clips)
    torch.set_num_threads(2)
    torch.zeros(10**6).sum()  # starts the threads of torch, which a forked worker does not have
    found = list(DataLoader(clips, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60))
    assert len(found) == 2 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
