"""Streams: errors for bad input, the end of a condition, and interrupts."""

import threading
from importlib import import_module

import pytest
import torch

from wavedil.audio import LogMel, NearestUpsampling, WaveNet, generate, stream
from wavedil.core.stream import select
from wavedil.errors import WavedilError

HOP = 10


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return WaveNet(8, 8, "1..8", sample_rate=8000).eval()


@pytest.fixture(scope="module")
def conditioned():
    """A model with mel features and speakers as conditioning."""
    torch.manual_seed(0)
    mel = NearestUpsampling(LogMel(8000, n_mels=4, n_fft=32, hop_length=HOP))
    return WaveNet(8, 8, "1..8", sample_rate=8000, condition=mel, speakers=["ann", "bob"], speaker_channels=3).eval()


def state_after(model, time, **options):
    chunks = stream(model, chunk=time, **options)
    next(chunks)
    return chunks.state()


def test_a_state_with_other_codes_or_nan_is_refused(model):
    state = state_after(model, 20, seed=0)
    small = WaveNet(8, 8, "1..8", num_codes=16, sample_rate=8000).eval()
    state["previous"][:] = 200
    with pytest.raises(WavedilError, match="beyond the 16 codes of this model"):
        stream(small, state=state)
    stream(model, state=state)
    key = next(key for key, value in state.items() if value.is_floating_point())
    with pytest.raises(WavedilError, match=f"NaN or infinity in {key}"):
        stream(model, state=state | {key: state[key] * float("nan")})


def test_an_incomplete_state_of_a_guided_stream_is_refused(conditioned):
    options = {"condition": torch.zeros(1, 4, 6), "speaker": "ann", "guidance": 2.0}
    state = state_after(conditioned, 20, num=2, **options)
    cut = {key: value[:1] if key.startswith("unguided.") else value for key, value in state.items()}
    with pytest.raises(WavedilError, match="state has unguided"):
        stream(conditioned, state=cut, **options)


def test_the_state_sets_the_number_of_streams(model):
    state = state_after(model, 20, num=3, seed=0)
    assert generate(model, 5, state=state).shape == (3, 1, 5)
    assert [len(sound[0]) for sound in generate(model, [5, 1, 2], state=state)] == [5, 1, 2]
    assert torch.equal(generate(model, 5, state=state)[1:2], generate(model, 5, state=select(state, [1])))
    for make in (lambda: generate(model, 5, state=state, num=5), lambda: stream(model, state=state, num=5)):
        with pytest.raises(WavedilError, match="num is 5, but the state has 3 streams"):
            make()
    with pytest.raises(WavedilError, match="samples has 2 lengths for 3 streams"):
        generate(model, [5, 1], state=state)
    with pytest.raises(WavedilError, match="chunk is given"):
        generate(model, 5, chunk=2)


def test_a_state_without_random_numbers_continues_with_a_seed(model):
    _, state = model.step(torch.zeros(2, 30, dtype=torch.long))
    assert next(stream(model, state=state, seed=3, chunk=7)).shape == (2, 1, 7)
    with pytest.raises(WavedilError, match="or give a seed"):
        stream(model, state=state)


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_a_condition_that_is_too_short_is_refused(conditioned, engine):
    frames, options = torch.zeros(1, 4, 10), {"speaker": "ann", "engine": engine}
    state = state_after(conditioned, 80, condition=frames, **options)
    sound = torch.zeros(1, 1, 10 * HOP)
    for make in (stream, lambda *a, **b: generate(*a, 5, **b), generate):
        with pytest.raises(WavedilError, match="but 81 samples are needed|but 85 samples"):
            make(conditioned, state=state, condition=frames[..., :5], **options)
        with pytest.raises(WavedilError, match="condition has 10 frames .* but 10[15] samples are needed"):
            make(conditioned, prime=sound, condition=frames, **options)
    with pytest.raises(WavedilError, match="expected a positive integer or a list"):
        generate(conditioned, [10, None], condition=frames, **options)


def test_nan_booleans_and_fractions_are_refused(conditioned):
    frames = torch.zeros(1, 4, 3)
    with pytest.raises(WavedilError, match="speaker has NaN"):
        generate(conditioned, 5, condition=frames, speaker=torch.full((1, 3), float("nan")))
    with pytest.raises(WavedilError, match="num is True"):
        generate(conditioned, 5, condition=frames, speaker="ann", num=True)
    with pytest.raises(WavedilError, match="top_k is 2.5: expected a positive integer"):
        generate(conditioned, 5, condition=frames, speaker="ann", top_k=2.5)
    options = {"speaker": "ann", "engine": "torch"}
    as_arrays = generate(conditioned, 5, condition=frames.numpy(), prime=torch.zeros(1, 1, 20).numpy(), **options)
    assert torch.equal(as_arrays, generate(conditioned, 5, condition=frames, prime=torch.zeros(1, 1, 20), **options))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("part", ["head", "stack"])
def test_weights_that_overflow_are_refused(precision, part):
    torch.manual_seed(0)
    wild = WaveNet(8, 8, "1..8", sample_rate=8000).eval()
    if part == "head":
        for parameter in wild.head.parameters():
            torch.nn.init.constant_(parameter, 3e38)
    else:  # infinity minus infinity in the residual stream
        for layer, sign in zip(wild.stack.layers[:2], (1, -1), strict=True):
            torch.nn.init.constant_(layer.residual.weight, 1e38)
            torch.nn.init.constant_(layer.residual.bias, sign * 3e38)
            torch.nn.init.constant_(layer.conv.bias, sign * 50.0)
    with pytest.raises(WavedilError, match="overflow"):
        generate(wild, 5, engine="numba", precision=precision)


def test_after_an_interrupt_no_thread_waits_for_the_other(model, monkeypatch):
    """The first thread of a stream is interrupted: the second must not wait for it forever."""
    from wavedil.audio.generation.engines.cpu import _StreamGroup

    chunks = stream(model, seed=0, engine="numba", threads=2, chunk=50)
    first, jobs = next(chunks), _StreamGroup.jobs

    def interrupted(self, *inputs):
        def stop():
            raise KeyboardInterrupt

        return [stop, *jobs(self, *inputs)[1:]]

    monkeypatch.setattr(_StreamGroup, "jobs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(chunks)
    chunks._session._pool.shutdown(wait=True)  # would wait forever
    assert not any("wavedil-sampling" in thread.name for thread in threading.enumerate())
    for use in (chunks.__next__, chunks.state):
        with pytest.raises(WavedilError, match="interrupted within a chunk"):
            use()
    monkeypatch.undo()
    assert torch.equal(first, next(stream(model, seed=0, engine="numba", chunk=50)))


def test_an_interrupt_returns_the_samples_made_so_far(model, monkeypatch):
    whole = generate(model, [40, 300, 300], seed=1)
    monkeypatch.setattr(import_module("wavedil.audio.generation.generate"), "CHUNK", 16)

    def stop(done, total):
        if done >= 64:
            raise KeyboardInterrupt

    parts = generate(model, [40, 300, 300], seed=1, progress=stop)
    assert [part.shape[1] for part in parts][1:] == [72, 72] and len(parts[0][0]) == 40
    assert all(torch.equal(part, full[:, : part.shape[1]]) for part, full in zip(parts, whole, strict=True))
