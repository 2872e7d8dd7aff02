"""What streams refuse, where they end, and what an interrupt leaves."""

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
def heard():
    """A model of mels and speakers."""
    torch.manual_seed(0)
    mel = NearestUpsampling(LogMel(8000, n_mels=4, n_fft=32, hop_length=HOP))
    return WaveNet(8, 8, "1..8", sample_rate=8000, condition=mel, speakers=["ann", "bob"], speaker_channels=3).eval()


def state_after(model, time, **options):
    chunks = stream(model, chunk=time, **options)
    next(chunks)
    return chunks.state()


def test_a_state_of_other_codes_or_of_no_numbers_is_refused(model):
    state = state_after(model, 20, seed=0)
    small = WaveNet(8, 8, "1..8", num_codes=16, sample_rate=8000).eval()
    state["previous"][:] = 200
    with pytest.raises(WavedilError, match="beyond the 16 codes of this model"):
        stream(small, state=state)
    stream(model, state=state)
    key = next(key for key, value in state.items() if value.is_floating_point())
    with pytest.raises(WavedilError, match=f"NaN or infinity in {key}"):
        stream(model, state=state | {key: state[key] * float("nan")})


def test_a_cut_state_of_a_guided_stream_is_refused(heard):
    options = {"condition": torch.zeros(1, 4, 6), "speaker": "ann", "guidance": 2.0}
    state = state_after(heard, 20, num=2, **options)
    cut = {key: value[:1] if key.startswith("unguided.") else value for key, value in state.items()}
    with pytest.raises(WavedilError, match="state has unguided"):
        stream(heard, state=cut, **options)


def test_the_state_says_how_many_streams_there_are(model):
    state = state_after(model, 20, num=3, seed=0)
    assert generate(model, 5, state=state).shape == (3, 1, 5)
    assert [len(sound[0]) for sound in generate(model, [5, 1, 2], state=state)] == [5, 1, 2]
    assert torch.equal(generate(model, 5, state=state)[1:2], generate(model, 5, state=select(state, [1])))
    for make in (lambda: generate(model, 5, state=state, num=5), lambda: stream(model, state=state, num=5)):
        with pytest.raises(WavedilError, match="num is 5, and the state has 3 streams"):
            make()
    with pytest.raises(WavedilError, match="samples has 2 lengths for 3 streams"):
        generate(model, [5, 1], state=state)
    with pytest.raises(WavedilError, match="chunk is given"):
        generate(model, 5, chunk=2)


def test_a_state_without_random_numbers_goes_on_with_a_seed(model):
    _, state = model.step(torch.zeros(2, 30, dtype=torch.long))
    assert next(stream(model, state=state, seed=3, chunk=7)).shape == (2, 1, 7)
    with pytest.raises(WavedilError, match="or give a seed"):
        stream(model, state=state)


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_a_condition_that_ends_too_early_is_told(heard, engine):
    frames, given = torch.zeros(1, 4, 10), {"speaker": "ann", "engine": engine}
    state = state_after(heard, 80, condition=frames, **given)
    sound = torch.zeros(1, 1, 10 * HOP)
    for make in (stream, lambda *a, **b: generate(*a, 5, **b), generate):
        with pytest.raises(WavedilError, match="but 81 samples are needed|but 85 samples"):
            make(heard, state=state, condition=frames[..., :5], **given)
        with pytest.raises(WavedilError, match="condition has 10 frames .* but 10[15] samples are needed"):
            make(heard, prime=sound, condition=frames, **given)
    with pytest.raises(WavedilError, match="expected a positive number"):
        generate(heard, [10, None], condition=frames, **given)


def test_numbers_that_are_none(heard):
    frames = torch.zeros(1, 4, 3)
    with pytest.raises(WavedilError, match="speaker has NaN"):
        generate(heard, 5, condition=frames, speaker=torch.full((1, 3), float("nan")))
    with pytest.raises(WavedilError, match="num is True"):
        generate(heard, 5, condition=frames, speaker="ann", num=True)
    with pytest.raises(WavedilError, match="top_k is 2.5: expected an integer"):
        generate(heard, 5, condition=frames, speaker="ann", top_k=2.5)
    options = {"speaker": "ann", "engine": "torch"}
    as_arrays = generate(heard, 5, condition=frames.numpy(), prime=torch.zeros(1, 1, 20).numpy(), **options)
    assert torch.equal(as_arrays, generate(heard, 5, condition=frames, prime=torch.zeros(1, 1, 20), **options))


def test_weights_that_overflow_are_told(model):
    wild = WaveNet(8, 8, "1..8", sample_rate=8000).eval()
    for parameter in wild.head.parameters():
        torch.nn.init.constant_(parameter, 3e38)
    with pytest.raises(WavedilError, match="overflow"):
        generate(wild, 5, engine="numba")


def test_an_interrupt_while_two_threads_share_a_stream_leaves_none_waiting(model, monkeypatch):
    """One half never comes: the other must not wait for it for ever."""
    from wavedil.audio.generation.engines.cpu import _Group

    chunks = stream(model, seed=0, engine="numba", threads=2, chunk=50)
    first, jobs = next(chunks), _Group.jobs

    def interrupted(self, *given):
        def stop():
            raise KeyboardInterrupt

        return [stop, *jobs(self, *given)[1:]]

    monkeypatch.setattr(_Group, "jobs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(chunks)
    chunks._session._pool.shutdown(wait=True)  # where it used to wait
    assert not any("wavedil-sampling" in thread.name for thread in threading.enumerate())
    for use in (chunks.__next__, chunks.state):
        with pytest.raises(WavedilError, match="interrupted within a chunk"):
            use()
    monkeypatch.undo()
    assert torch.equal(first, next(stream(model, seed=0, engine="numba", chunk=50)))


def test_an_interrupt_keeps_what_was_made_of_all_streams(model, monkeypatch):
    whole = generate(model, [40, 300, 300], seed=1)
    monkeypatch.setattr(import_module("wavedil.audio.generation.generate"), "CHUNK", 16)

    def stop(made, total):
        if made >= 64:
            raise KeyboardInterrupt

    parts = generate(model, [40, 300, 300], seed=1, progress=stop)
    assert [part.shape[1] for part in parts][1:] == [72, 72] and len(parts[0][0]) == 40
    assert all(torch.equal(part, full[:, : part.shape[1]]) for part, full in zip(parts, whole, strict=True))
