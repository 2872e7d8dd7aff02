"""Generation, streaming, primes and data of models whose codes are those of sound with pre-emphasis."""

import numpy as np
import pytest
import torch

from wavedil.audio import WaveNet, generate, load, save, stream, write
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import RandomCrops, WholeFiles
from wavedil.audio.distributions.quantizers import Linear, MuLaw
from wavedil.audio.evaluation import evaluate
from wavedil.core.stream import select

LINEAR = {"quantizer": "linear", "num_codes": 400, "distribution": "logistics"}


@pytest.fixture(params=[{}, LINEAR], ids=["mulaw", "linear"])
def model(request):
    torch.manual_seed(0)
    options = {"channels": 6, "skip_channels": 6, "dilations": "1..4", "sample_rate": 8000, **request.param}
    model = WaveNet(**options, pre_emphasis=0.85).eval()
    model.set_prior(torch.exp(-((model.quantizer.levels / 0.02) ** 2)))  # quiet, so that no sound is clipped
    return model


def undo(model, codes):
    """The definition, one sample after another."""
    sound, value = [], 0.0
    for level in model.quantizer.decode(codes).tolist():
        value = level + 0.85 * value
        sound.append(value)
    return torch.tensor(sound).clamp(-1, 1)


def prime(streams, time=77):
    return 0.1 * torch.randn(streams, 1, time, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_generated_sound_is_that_of_the_codes(model, engine):
    twin = WaveNet(**{**model.config, "pre_emphasis": 0.0}).eval()
    twin.load_state_dict(model.state_dict())
    codes = twin.encode(generate(twin, 300, num=2, seed=3, engine=engine)[:, 0])
    sound = generate(model, 300, num=2, seed=3, engine=engine)
    for row, clip in zip(codes, sound[:, 0], strict=True):
        torch.testing.assert_close(clip, undo(model, row), atol=1e-6, rtol=0)


@pytest.mark.parametrize("primed", [False, True])
def test_chunks_saved_states_and_branches_equal_one_clip(model, primed):
    options = {"num": 2, "seed": 3, "prime": prime(2) if primed else None}
    whole = generate(model, 150, **options)
    source = stream(model, chunk=50, **options)
    first, state = next(source), source.state()
    swapped = stream(model, state=select(state, [1, 0]), chunk=100)
    assert torch.equal(torch.cat([first, next(source), next(source)], 2), whole)
    assert torch.equal(next(swapped)[[1, 0]], whole[:, :, 50:])


def test_a_prime_continues_without_a_step(model):
    recording = prime(1)
    codes = model.encode(recording[:, 0])
    continued = generate(model, 40, seed=5, prime=recording)
    new = model.quantizer.encode_sound(continued[:, 0], model.decode(codes)[:, -1])
    assert torch.equal(model.decode(torch.cat([codes, new], 1))[:, 77:], continued[:, 0])


def test_clips_of_several_lengths(model):
    long, short = generate(model, [2100, 30], seed=2)
    together = generate(model, 2100, num=2, seed=2)
    assert torch.equal(long, together[0]) and torch.equal(short, together[1, :, :30])


@pytest.mark.parametrize("quantizer", [MuLaw(256, 0.9), Linear(512, 0.5)])
def test_crops_are_parts_of_the_files_codes(quantizer, tmp_path):
    generator = np.random.default_rng(0)
    for index in range(2):
        write(tmp_path / f"{index}.wav", generator.uniform(-0.5, 0.5, (1, 900)).astype(np.float32), 8000, "FLOAT")
    corpus = Corpus(sorted(tmp_path.glob("*.wav")), 8000)
    whole = WholeFiles(corpus, quantizer)
    crops = RandomCrops(corpus, 101, quantizer=quantizer, size=40)
    starts = set()
    for index in range(40):
        file, start = crops.place(index)
        starts.add(start)
        assert torch.equal(crops[index]["codes"], whole[file]["codes"][start : start + 101])
    assert len(starts) > 20


def test_the_model_folder_and_the_definition_name_it(model, tmp_path):
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.quantizer.pre_emphasis == 0.85
    assert torch.equal(generate(loaded, 50, seed=1), generate(model, 50, seed=1))
    result = evaluate(model, [prime(1)[0, 0]])
    assert "with pre-emphasis 0.85 at 8000 Hz" in result.definition
