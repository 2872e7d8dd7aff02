"""Streams keep no tensors of past chunks, and a deleted stream frees everything."""

import gc
import weakref

import pytest
import torch

from wavedil.audio import WaveNet, stream

ENGINES = ["torch", "numba"]


def model(dilations: str) -> WaveNet:
    torch.manual_seed(0)
    return WaveNet(8, 8, dilations, sample_rate=8000).eval()


def tensors_after(chunks, count: int) -> int:
    """The number of tensors that exist after ``count`` more chunks."""
    for _ in range(count):
        next(chunks)
    gc.collect()
    return sum(type(o) is torch.Tensor for o in gc.get_objects())


@pytest.mark.parametrize(("engine", "count"), [("numba", 300), ("torch", 10)])  # 30 s and 1 s
def test_a_stream_keeps_no_tensors_of_past_chunks(engine, count):
    chunks = stream(model("1..8"), seed=0, chunk=800 if engine == "numba" else 80, engine=engine)
    tensors = tensors_after(chunks, 2)
    assert tensors_after(chunks, count) == tensors


@pytest.mark.parametrize("engine", ENGINES)
def test_deleted_streams_free_their_tensors(engine):
    net, dropped = model("1..8"), []
    next(stream(net, chunk=4, engine=engine))  # compiles, and fills all caches
    gc.collect()
    tensors = sum(type(o) is torch.Tensor for o in gc.get_objects())
    for seed in range(200):
        chunks = stream(net, seed=seed, chunk=4, engine=engine)
        next(chunks)
        dropped.append(weakref.ref(chunks._session))
        del chunks
    gc.collect()
    assert all(session() is None for session in dropped)
    assert sum(type(o) is torch.Tensor for o in gc.get_objects()) == tensors
