"""Effects as C: the packaged models, and models of each class with random sizes and options, beside PyTorch."""

import os
import random

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, load
from wavedil.audio.effects.compiled import library
from wavedil.audio.effects.engines import CompiledEngine, TorchEngine
from wavedil.audio.models.activations import ACTIVATIONS
from wavedil.audio.models.effect_model import EffectModel
from wavedil.audio.models.layer_chain import LayerChain
from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMContainer, NAMConvNet, NAMLinear
from wavedil.audio.models.nam.layer import FILM_PLACES
from wavedil.packaged import find_model, packaged_names

#: Seeds of the models; the variable sets another number of them for a long search.
SEEDS = range(int(os.environ.get("WAVEDIL_SEEDS", "1")))
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17]


def activation(draw: random.Random, bounded: bool = True) -> str:
    names = [name for name in ACTIVATIONS if name != "PReLU"]  # has a slope for each channel
    return draw.choice(["Tanh", "Sigmoid", "Softsign", "Hardtanh"] if bounded else names)


def dilations(draw: random.Random) -> list[int]:
    return [draw.choice([1, 2, 3, 31, 64, 100, 257]) for _ in range(draw.randint(1, 4))]


def knobs(draw: random.Random) -> dict:
    ends = [(0, 1), (-1, 1), (0.5, 10), (-100, -99)]
    return {name: ends[draw.randrange(4)] for name in ("gain", "low cut", "high")[: draw.randint(0, 3)]}


def random_effect(draw: random.Random) -> Effect:
    slow = draw.choice([[], [0.01], [0.05, 0.001]])
    return Effect(
        draw.choice(WIDTHS), draw.choice(WIDTHS), dilations(draw), draw.randint(1, 6), knobs=knobs(draw),
        knob_channels=draw.choice([0, 1, 3, 8]), head_channels=draw.choice(WIDTHS), time_constants=slow,
        charges=[draw.uniform(-5, 5) for _ in slow], sample_rate=draw.choice([50, 8000, 44100]),
    )  # fmt: skip


def random_chain(draw: random.Random) -> LayerChain:
    def layer(channels):
        kind = draw.choice(["gru", "lstm", "conv"])
        conv = {"kernel_size": draw.randint(1, 5), "dilation": draw.choice([1, 30, 100])} if kind == "conv" else {}
        return {"type": kind, "channels": channels, "activation": activation(draw), **conv}

    widths = [draw.choice(WIDTHS) for _ in range(draw.randint(0, 3))]
    return LayerChain(
        [layer(width) for width in [*widths, 1]], residual=draw.random() < 0.5, input_gain=draw.uniform(0.1, 2),
        output_gain=draw.uniform(0.1, 2), knobs=knobs(draw), sample_rate=draw.choice([8000, 48000]),
    )  # fmt: skip


def random_nam(draw: random.Random) -> NAM:
    def array(inputs, head, condition):
        groups = [draw.choice([1, 1, 2, 3]) for _ in range(4)]
        width = draw.choice([1, 2, 3]) * np.lcm.reduce(groups).item()
        lengths = dilations(draw)
        films = {place: {} for place in FILM_PLACES if draw.random() < 0.2}
        has_1x1 = draw.random() < 0.7
        head1x1 = draw.choice([0, head, width])
        if not head1x1:
            films.pop("head1x1_post", None)
        if not has_1x1:
            films.pop("layer1x1_post", None)
        return width, head1x1 or width, lambda after: LayerArray(
            inputs, width, after, lengths, [draw.randint(1, 4) for _ in lengths], activation=activation(draw),
            gating=[draw.choice(["none", "gated", "blended"]) for _ in lengths], condition_channels=condition,
            groups=groups[0], mixin_groups=1, layer1x1=has_1x1, layer1x1_groups=groups[2] if has_1x1 else 1,
            head1x1_channels=head1x1, films=films, head_kernel_size=draw.randint(1, 4),
            head_dilation=draw.choice([1, 50]), head_bias=draw.random() < 0.5,
        )  # fmt: skip

    first, _, make_first = array(1, 2, 1)
    if draw.random() < 0.5:
        return NAM([make_first(1)], head_scale=0.5, sample_rate=8000, start=draw.choice(["zero_input", "zero_history"]))
    _, summed, make_second = array(first, 3, 1)
    return NAM([make_first(summed), make_second(1)], head_scale=0.5, sample_rate=48000)


def random_other(draw: random.Random) -> EffectModel:
    models = [
        NAMLSTM(draw.choice(WIDTHS), draw.randint(1, 3)),
        NAMConvNet(draw.choice(WIDTHS), dilations(draw), activation(draw, False), batchnorm=draw.random() < 0.5),
        NAMLinear(draw.choice([1, 2, 65, 1000]), draw.random() < 0.5),
    ]
    draw.shuffle(models)
    return models[0] if draw.random() < 0.7 else NAMContainer(models, [0.3, 0.6, 1]).at_quality(draw.random())


def compare(model: EffectModel, draw: random.Random) -> None:
    """Two channels, in blocks of any length, with knobs that are set while they move, and a state that is restored."""
    pair = CompiledEngine(model.eval(), 2), TorchEngine(model, 2)
    assert np.isfinite(pair[0].process(np.zeros((2, 0), np.float32))).all()
    for index in range(8):
        values = torch.tensor([draw.choice([low, high, draw.uniform(low, high)]) for low, high in model.knobs.values()])
        sound = np.random.default_rng(index).uniform(-1, 1, (2, draw.choice([1, 15, 64, 65, 200, 500])))
        results = []
        for engine in pair:
            engine.set_knobs(values)
            if index == 4:
                engine.restore(engine.state())
            results.append(engine.process(sound.astype(np.float32)))
        np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
    monkeypatch.setattr(library, "FLAGS", ("-O1", "-shared"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", [random_effect, random_chain, random_nam, random_other])
def test_a_random_model_equals_its_c_code(make, seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    compare(make(draw), draw)


def test_packaged_effects_equal_their_c_code():
    models = [load(find_model(name)) for name in packaged_names()]
    effects = [model for model in models if isinstance(model, EffectModel)]
    assert effects
    for model in effects:
        compare(model, random.Random(0))
