"""Effects as C: every option beside the model's own ``step``, knobs, and states."""

import ctypes
import logging

import numpy as np
import pytest
import torch

from wavedil.audio import Effect
from wavedil.audio.effects.compiled import library
from wavedil.audio.effects.compiled.program import lower
from wavedil.audio.effects.engines import CompiledEngine, Ramp, TorchEngine, make_engine
from wavedil.audio.models.activations import ACTIVATIONS
from wavedil.audio.models.layer_chain import LayerChain
from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMContainer, NAMConvNet, NAMLinear
from wavedil.audio.models.nam.layer import FILM_PLACES
from wavedil.audio.models.tcn import TCN
from wavedil.core import LearnedDilation, MergeableDilations, fold_dilations
from wavedil.errors import WavedilError

RATE = 8000
#: Parameters other than the default ones, for those activations that have some.
SPECIAL = {
    "PReLU": {"negative_slopes": [0.1, 0.4, -0.2]},
    "LeakyHardtanh": {"min_val": -0.5, "max_val": 0.7, "min_slope": 0.1, "max_slope": 0.2},
}


def all_activations(**kwargs) -> NAM:
    """One layer for each activation: alone, as first, or as second part of a gate."""
    names = list(ACTIVATIONS)
    specs = [{"type": name, **SPECIAL.get(name, {})} for name in names]
    gatings = [("none", "gated", "blended")[index % 3] for index in range(len(names))]
    array = LayerArray(
        1, 3, 2, "1..4 x5", 2, activation=specs, gating=gatings, secondary=specs[1:] + specs[:1], head_bias=True,
        head1x1_channels=5,
    )  # fmt: skip
    return NAM([array, LayerArray(3, 2, 1, "1,300")], head_scale=0.5, sample_rate=RATE, **kwargs)


def all_options(**kwargs) -> NAM:
    """Every place of modulation, groups that differ, a condition with its own layers, and convolutions at the end."""
    films = dict.fromkeys(FILM_PLACES, {}) | {"conv_post": {"groups": 2}, "input_mixin_pre": {"shift": False}}
    arrays = [
        LayerArray(
            1, 6, 4, "1,150", [3, 2], gating=["blended", "gated"], bottleneck=6, condition_channels=6, films=films,
            head_kernel_size=3, head_dilation=40, groups=2, mixin_groups=3, layer1x1_groups=2, head1x1_channels=4,
            head1x1_groups=2,
        ),
        LayerArray(6, 4, 2, "3", 5, condition_channels=6, layer1x1=False, groups=4, mixin_groups=2, head1x1_channels=4),
    ]  # fmt: skip
    condition = NAM([LayerArray(1, 3, 6, "1,5")], out_channels=6, sample_rate=RATE, head_scale=0.5)
    head = {"channels": 3, "kernel_sizes": [2, 3], "activation": "LeakyReLU"}
    return NAM(arrays, condition=condition, head=head, head_scale=0.7, sample_rate=RATE, **kwargs)


def effect(**kwargs) -> Effect:
    return Effect(7, 5, [1, 150, 2], 3, head_channels=3, sample_rate=RATE, **kwargs)


def irregular(conv) -> Effect:
    """An effect whose layers have taps at irregular delays, learned or merged."""
    model = effect(knobs={"gain": [0, 1]})
    for layer in model.stack.layers:
        old = layer.conv
        layer.conv = conv(1, old.in_channels, old.out_channels, 3, dilation=old.dilation, padding="causal")
        if isinstance(layer.conv, LearnedDilation):
            torch.nn.init.uniform_(layer.conv.positions, 0, 0.9 * layer.conv.span[0])
    return fold_dilations(model)


#: Of each kind of model, with odd widths, and spans that are longer and shorter than a block.
MODELS = {
    "effect": lambda: effect(
        knobs={"gain": [0, 2], "tone": [-1, 1]}, knob_channels=2, time_constants=[0.02, 0.001], charges=[50.0, 0.0]
    ),
    "linear knobs": lambda: effect(knobs={"gain": [0, 1]}, knob_channels=0),
    "learned taps": lambda: irregular(LearnedDilation),
    "merged taps": lambda: irregular(MergeableDilations),
    "no knobs": lambda: Effect(4, 4, "1,2", 1, sample_rate=RATE),
    "activations": all_activations,
    "options": all_options,
    "zero history": lambda: all_options(start="zero_history"),
    "slimmed": lambda: NAM(
        [
            LayerArray(1, 4, 3, "1,2", 2, gating="gated", slimmable=[2, 4]),
            LayerArray(4, 6, 1, "1,4", bottleneck=3, slimmable=[2, 6]),
        ]
    ).at_quality(0.3),
    "container": lambda: NAMContainer([NAMLinear(3), NAMLinear(3), NAMLSTM(17, 2)], [0.3, 0.5, 1]),
    "chain": lambda: LayerChain(
        [
            {"type": "conv", "channels": 3, "kernel_size": 3, "dilation": 40, "activation": "Tanh"},
            {"type": "lstm", "channels": 5},
            {"type": "lstm", "channels": 2, "activation": "ReLU"},
            {"type": "conv", "channels": 1},
        ],
        residual=True,
        input_gain=0.5,
        output_gain=1.5,
    ),
    "conditioned chain": lambda: LayerChain(
        [
            {"type": "gru", "channels": 5, "activation": "Softsign"},
            {"type": "gru", "channels": 18},
            {"type": "lstm", "channels": 3},
            {"type": "conv", "channels": 1, "kernel_size": 2, "dilation": 100},
        ],
        residual=True,
        input_gain=2.0,
        output_gain=0.3,
        knobs={"gain": [0, 1], "tone": [-3, 10]},
        sample_rate=RATE,
    ),
    "knobs with a history": lambda: LayerChain(
        [
            {"type": "conv", "channels": 5, "kernel_size": 4, "dilation": 50, "activation": "Tanh"},
            {"type": "conv", "channels": 1},
        ],
        knobs={"gain": [0, 2]},
        sample_rate=RATE,
    ),
    "convnet": lambda: NAMConvNet(3, [1, 2, 5], "ReLU", batchnorm=True),
    "linear": lambda: NAMLinear(700, True),
}


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
    monkeypatch.setattr(library, "FLAGS", ("-O1", "-shared"))


def made(name: str, seed: int = 0):
    torch.manual_seed(seed)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for weight in filter(torch.is_floating_point, model.state_dict().values()):
            weight.add_(0.1 * torch.rand_like(weight))  # also those that start at 0 and 1
    return model


def noise(length: int, loudness: float = 0.5) -> np.ndarray:
    return (loudness * np.random.default_rng(length).standard_normal((2, length))).astype(np.float32)


def knob_settings(model, fraction: float) -> torch.Tensor:
    return torch.tensor([low + fraction * (high - low) for low, high in model.knobs.values()])


@pytest.mark.parametrize("name", MODELS)
def test_the_c_code_equals_the_model(name):
    """In blocks of all kinds, soft and loud, on two channels; knobs are changed while they still move."""
    model = made(name)
    loud = 0.5 if name == "activations" else 10.0  # there, gates without bounds multiply each other
    pair = CompiledEngine(model, 2), TorchEngine(model, 2)
    for index, length in enumerate([1, 64, 65, 0, 31, 1, 200, 1400, 63, 500]):
        if index in (0, 2, 3, 6, 8):
            for engine in pair:
                engine.set_knobs(knob_settings(model, (0.3 + 0.17 * index) % 1))
        sound = noise(length, loud if index == 7 else 0.5)
        a, b = (engine.process(sound) for engine in pair)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert np.abs(b).max() > 1e-3


@pytest.mark.parametrize("gated", [True, False])
def test_a_tcn_from_sound_to_sound_has_c_code(gated):
    torch.manual_seed(0)
    model, sound = TCN(1, 1, [3, 3, 5], "1,2,40", activation="ELU", gated=gated, dropout=0.5).eval(), noise(700)
    with torch.no_grad():
        expected = model(torch.from_numpy(sound).unsqueeze(1))[:, 0].numpy()
    np.testing.assert_allclose(CompiledEngine(model, 2).process(sound), expected, atol=1e-5)
    for other in (TCN(2, 1, 4, "1"), TCN(1, None, 4, "1")):
        with pytest.raises(WavedilError, match="expected in_channels=1 and out_channels=1"):
            lower(other)
    with pytest.raises(WavedilError, match="stack.layers.0.first.conv is not causal"):
        lower(TCN(1, 1, 4, "1", causal=False))


@pytest.mark.parametrize("name", ["effect", "conditioned chain"])
def test_a_state_is_copied_and_restored(name):
    model = made(name)
    engine = CompiledEngine(model, 2)
    engine.process(noise(300))
    engine.set_knobs(knob_settings(model, 0.9))
    engine.process(noise(50))
    size = engine.library.effect_state_size()
    saved = [ctypes.string_at(state, size) for state in engine.states]
    first = engine.process(noise(400))
    for state, content in zip(engine.states, saved, strict=True):
        ctypes.memmove(state, content, size)
    np.testing.assert_array_equal(engine.process(noise(400)), first)
    # The library has no state of its own: another instance starts anew.
    again = CompiledEngine(model, 2)
    again.process(noise(300))
    again.set_knobs(knob_settings(model, 0.9))
    again.process(noise(50))
    np.testing.assert_array_equal(again.process(noise(400)), first)


def test_a_knob_moves_without_a_jump():
    """A sound of 100 Hz has as large second differences as with the knob at rest; at once it would be 40 times."""
    model = made("linear knobs")
    sound = np.sin(2 * np.pi * 100 / RATE * np.arange(4000, dtype=np.float32))[None]
    jumps = []
    for start, end in ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0)):
        for engine in (CompiledEngine(model, 1), TorchEngine(model, 1)):
            engine.set_knobs(torch.tensor([start]))
            before = engine.process(sound[:, :2056])
            engine.set_knobs(torch.tensor([end]))
            after = engine.process(sound[:, 2056:])
            result = np.concatenate([before, after], axis=1)[:, 1000:]
            jumps.append(np.abs(np.diff(result, 2)).max())
    assert max(jumps[4:]) <= 1.2 * max(jumps[:4])
    # Within 20 ms the knob is there, and the layers have forgotten the way after their receptive field.
    there = TorchEngine(model, 1)
    there.set_knobs(torch.tensor([1.0]))
    there.process(sound[:, :2056])
    settled = 160 + model.receptive_field
    np.testing.assert_allclose(after[:, settled:], there.process(sound[:, 2056:])[:, settled:], atol=1e-5)


@pytest.mark.parametrize("name", ["effect", "conditioned chain"])
def test_knobs_that_are_turned_all_the_time_stay_in_their_range_and_blocks_do_not_matter(name):
    """Set for every sample, one after the other, and back and forth while they move at full speed."""
    model, sound = made(name), noise(600)[:1]
    for turn in (lambda t: (t / 600, 1 - t / 600), lambda t: (t // 110 % 2, t // 100 % 3 / 2)):
        pair = [TorchEngine(model, 1), CompiledEngine(model, 1), CompiledEngine(model, 1)]
        ramp, parts = pair[0].ramp, [[], [], []]
        for start in range(0, 600, 10):
            values = torch.stack([knob_settings(model, part)[i] for i, part in enumerate(turn(start))])
            for engine in pair:
                engine.set_knobs(values)
            block = sound[:, start : start + 10]
            parts[0].append(pair[0].process(block))
            assert (ramp.low <= ramp._at(ramp.left)).all() and (ramp._at(ramp.left) <= ramp.high).all()
            parts[1].append(pair[1].process(block))
            parts[2] += [pair[2].process(block[:, i : i + 1]) for i in range(10)]
        torch_result, blocks, single = (np.concatenate(part, axis=1) for part in parts)
        np.testing.assert_array_equal(blocks, single)
        np.testing.assert_allclose(blocks, torch_result, rtol=1e-5, atol=1e-5)


def test_the_way_of_a_knob_has_no_corner_and_ends_after_20_ms():
    model = Effect(2, 2, "1", knobs={"a": [0, 1], "b": [-1, 1]}, sample_rate=50000)
    ramp, ways = Ramp(model), []
    ramp.set(torch.tensor([0.0, 1.0]))
    assert ramp.next(5)[1].tolist() == [0, 1]
    for values, count in (([1.0, 1.0], 500), ([0.9, -1.0], 200), ([0.9, 1.0], 1000), ([0.9, 1.0], 1)):
        ramp.set(torch.tensor(values))
        done = 0
        while done < count:
            step, values = ramp.next(count - done)
            ways.append(values.view(2, -1).expand(2, step) if values.ndim == 1 else values)
            done += step
    way = torch.cat(ways, dim=1).numpy()
    # The slope of a cubic over 1000 samples changes by at most 6e-6 of its way per sample, and where two meet by more.
    assert np.abs(np.diff(way, 2)).max() < 3e-5
    assert way[:, -1].tolist() == [np.float32(0.9), 1.0] and way[0].max() <= 1 and way[1].min() >= -1
    assert np.abs(way[:, -3] - way[:, -1]).max() < 1e-4 and np.abs(way[0, 500] - 0.5) < 0.01


def test_knobs_are_clamped_and_bad_ones_refused():
    model = made("effect")
    engine = CompiledEngine(model, 1)
    call, state = engine.library.effect_set_knob, engine.states[0]
    assert [call(state, index, value) for index, value in ((0, 1), (2, 1), (-1, 1), (0, float("nan")))] == [
        0,
        -1,
        -1,
        -1,
    ]
    assert call(state, 1, 99) == 0
    expected = CompiledEngine(model, 1)
    expected.set_knobs(torch.tensor([1.0, 1.0]))
    np.testing.assert_array_equal(engine.process(noise(100)[:1]), expected.process(noise(100)[:1]))


@pytest.mark.parametrize("name", ["effect", "container"])
def test_nan_and_infinity_count_as_zero_and_do_not_stay(name):
    engine, clean = CompiledEngine(made(name), 2), CompiledEngine(made(name), 2)
    sound = noise(200)
    sound[0, 50], sound[1, 51], sound[1, 60] = np.nan, np.inf, -1e30
    without = np.where(np.abs(sound) < 1e6, sound, 0).astype(np.float32)
    np.testing.assert_array_equal(engine.process(sound), clean.process(without))


class Inverted(Effect):
    """An effect with another step than the program."""

    def step(self, x, state=None, knobs=None):
        y, state = super().step(x, state, knobs)
        return -y, state


class Cube(torch.nn.Module):
    def forward(self, x):
        return x**3


def test_models_without_a_program_run_in_torch(caplog):
    with pytest.raises(WavedilError, match="an Inverted has no C source"):
        lower(Inverted(4, 4, "1,2"))
    model = NAMConvNet(2, [1])
    model.activation = Cube()
    with pytest.raises(WavedilError, match="the activation is a Cube: expected one of"):
        lower(model)
    with caplog.at_level(logging.WARNING, "wavedil"):
        assert isinstance(make_engine(Inverted(4, 4, "1,2"), 1), TorchEngine)
        assert isinstance(make_engine(Inverted(4, 4, "1,2"), 1), TorchEngine)
        assert isinstance(make_engine(Effect(4, 4, "1,2").double(), 1), TorchEngine)
    assert caplog.text.count("this effect runs in PyTorch, which is slower: an Inverted has no C source") == 1
