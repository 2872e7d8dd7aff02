import json

import pytest
import torch
from torch import nn

from wavedil.audio import Effect, WaveNet
from wavedil.audio.models.layer_chain import LayerChain
from wavedil.audio.models.nam import NAM, NAMContainer
from wavedil.audio.models.nam.others import NAMLSTM, NAMLinear
from wavedil.audio.models.tcn import TCN
from wavedil.core import ConvBlock, DilatedStack, LearnedDilation, MergeableDilations, fold_dilations
from wavedil.core.schedule import parse_schedule
from wavedil.errors import WavedilError
from wavedil.inspection.model import inspect_model, measure_model, render_model
from wavedil.inspection.schedule import inspect_schedule
from wavedil.inspection.text import render_text
from wavedil.vision import ContextModule, Conv1x1Head, Segmenter, SmallBackbone

KEYS = {
    "dilations", "layers", "kernel_size", "ndim", "channels", "parameters", "multiply_adds", "receptive_field",
    "receptive_field_ms", "holes", "path_ratio", "hdc_m2", "hdc_passes", "growth", "suggestions",
}  # fmt: skip


def test_receptive_field_of_five_layers():
    info = inspect_schedule("1,2,4,8,16", ndim=2)
    assert (info["receptive_field"], info["holes"], info["kernel_size"]) == (63, 0, 3)
    assert "63 x 63 pixels" in render_text(info)


def test_seven_plain_against_seven_dilated():
    plain, dilated = inspect_schedule("1 x7", 2), inspect_schedule("1..64", 2)
    assert plain["parameters"] == dilated["parameters"] == 7 * (64 * 64 * 9 + 64)
    assert plain["multiply_adds"] == dilated["multiply_adds"] == 7 * 64 * 64 * 9
    assert (plain["receptive_field"], dilated["receptive_field"]) == (15, 255)
    assert dilated["undilated"] == {"receptive_field": 15, "layers_for_same_field": 127}
    assert "the same layers have a field of 15 x 15; the same field needs 127 layers" in render_text(dilated)


def test_receptive_field_in_milliseconds():
    info = inspect_schedule("1..512", sample_rate=16000)
    assert (info["receptive_field"], info["receptive_field_ms"]) == (1024, 64.0)
    assert "1,024 samples = 64.0 ms at 16000 Hz" in render_text(info)


def test_holes_and_suggestions():
    info = inspect_schedule("2,4,8", kernel_size=3)
    assert (info["holes"], info["positions"], info["hdc_passes"]) == (14, 29, False)
    assert {s["kind"] for s in info["suggestions"]} == {"return to 1", "hybrid rates", "parallel branches"}
    for suggestion in info["suggestions"]:
        if len(suggestion["branches"]) == 1:
            assert inspect_schedule(suggestion["branches"][0], kernel_size=3)["holes"] == 0
    text = render_text(info)
    assert "14 of 29 samples (48%)" in text and "append a layer of dilation 1" in text


@pytest.mark.parametrize(
    "args",
    [
        ("1..512 x3", 1, 2, 64, 16000),
        ("5", 3),
        ("1 x1000", 1, 3),
        ("2,4", 2, (1, 3)),
        ("2..64", 3),
        ("7 x9", 1, 1),
        ("32 x12", 1, 3, 64, 44100),
    ],
)
def test_info_is_json_and_text_fits_a_terminal(args):
    info = inspect_schedule(*args)
    assert info.keys() >= KEYS
    back = json.loads(json.dumps(info, allow_nan=False))
    assert tuple(back["dilations"]) == parse_schedule(args[0])
    assert len(back["growth"]) == back["layers"]
    assert back["growth"][-1]["receptive_field"] == back["receptive_field"]
    assert max(map(len, render_text(info).splitlines())) <= 100


def test_a_wrong_hdc_rule_is_pointed_out():
    assert "wrong here" in render_text(inspect_schedule("2,2,2", 1, 3))
    assert "wrong here" in render_text(inspect_schedule("1,2,5 x2", 1, 3))
    assert "wrong here" not in render_text(inspect_schedule("1,2,5", 1, 3))
    assert inspect_schedule("4")["hdc_m2"] is None


class Model(nn.Module):
    """The attributes that ``inspect_model`` reads: an input convolution of kernel 2 before dilations 1, 2, 4."""

    dilations, kernel_size, receptive_field, sample_rate, num_codes = (1, 2, 4), 2, 9, 8000, 16

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 4)
        self.input_conv = nn.Conv1d(4, 4, 2)

    def forward(self, codes):
        return self.input_conv(nn.functional.pad(self.embedding(codes).mT, (1, 0)))


def test_model():
    model = Model()
    info = inspect_model(model)
    assert info.keys() >= KEYS
    assert (info["dilations"], info["receptive_field"], info["receptive_field_ms"]) == ([1, 2, 4], 9, 1.125)
    assert (info["parameters"], info["multiply_adds"]) == (16 * 4 + 4 * 4 * 2 + 4, 4 * 4 * 2)
    example = torch.zeros(3, 10, dtype=torch.int64)
    assert inspect_model(model, example)["multiply_adds"] == 4 * 4 * 2
    assert "9 samples" in render_text(json.loads(json.dumps(info)))
    with pytest.raises(WavedilError, match="Linear has no dilations"):
        inspect_model(nn.Linear(1, 1))


@pytest.mark.parametrize("conv", [LearnedDilation, MergeableDilations])
def test_models_with_irregular_taps_have_no_gridding_of_their_schedule(conv):
    stack = DilatedStack(1, 4, "1..8", 2, causal=True, conv=conv)
    for layer in stack.layers if conv is LearnedDilation else ():
        torch.nn.init.constant_(layer.conv.positions[0, 0], 0.9 * layer.conv.span[0])
    wavenet, effect, tcn = WaveNet(4, 4, "1..8"), Effect(4, 4, "1..8", 2), TCN(4, 2, 4, "1..8")
    for model in (wavenet, effect):
        model.stack = stack
    tcn.stack = DilatedStack(1, 4, "1..8", 2, block=ConvBlock, causal=True, conv=conv)
    context = ContextModule(3, dilations="1,2")
    context.stack = DilatedStack(2, 3, "1,2", 3, conv=conv)
    vision = Segmenter(SmallBackbone(4, output_stride=4), Conv1x1Head(4, 3), context, num_classes=3)
    for model in (wavenet, effect, tcn, vision):
        inspect, render = model.inspection() if hasattr(model, "inspection") else (inspect_model, render_model)
        for _ in range(2):
            info = json.loads(json.dumps(inspect(model)))
            assert info["receptive_field"] == model.receptive_field and info.get("holes") is None
            assert info.get("dilations") is None and "holes" not in render(info) and info["multiply_adds"] > 0
            fold_dilations(model)


def lstm_weights(inputs, hidden):
    return 4 * hidden * (inputs + hidden)


@pytest.mark.parametrize(
    ("model", "cost", "recurrent"),
    [
        (LayerChain([{"type": "lstm", "channels": 8}, {"type": "conv", "channels": 1}], knobs={"gain": [0, 1]}),
         lstm_weights(2, 8) + 8, 1),
        (LayerChain([{"type": "gru", "channels": 5}, {"type": "conv", "channels": 1}]), 3 * 5 * 6 + 5, 1),
        (LayerChain([{"type": "conv", "channels": 3, "kernel_size": 2}, {"type": "conv", "channels": 1}]), 9, 0),
        (NAMLSTM(6, 2, sample_rate=44100), lstm_weights(1, 6) + lstm_weights(6, 6) + 6, 2),
        (NAMContainer([NAMLinear(7), NAMLSTM(3)]), lstm_weights(1, 3) + 3, 1),
        (NAMContainer([NAMLSTM(3), NAMLinear(7)]), 7, 0),
    ],
)  # fmt: skip
def test_effects_without_a_schedule(model, cost, recurrent):
    """The multiply-adds of a sample are the weights; those of recurrent layers count at each step."""
    info = json.loads(json.dumps(inspect_model(model)))
    assert info["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (info["multiply_adds"], info["recurrent_layers"]) == (cost, recurrent)
    text = render_model(info)
    assert f"{cost:,} per output sample" in text and f"{info['sample_rate']} Hz" in text
    if recurrent:
        assert info["receptive_field"] is info["receptive_field_ms"] is None and "unlimited" in text
    else:
        assert f"{model.receptive_field} samples" in text
    assert len(info["networks"]) == (2 if isinstance(model, NAMContainer) else 0)
    assert text.count("quality") == len(info["networks"])


def test_effects_with_a_schedule_have_their_cost():
    for effect in (Effect(4, 4, "1,2", knobs={"gain": [0, 1]}), NAM(arrays="nano")):
        info = inspect_model(effect)
        weights = [p for name, p in effect.named_parameters() if "knob" not in name and "condition" not in name]
        assert sum(p.numel() for p in weights if p.ndim > 1) <= info["multiply_adds"] <= info["parameters"]
        assert render_model(info) == render_text(info)
    assert inspect_model(NAM(arrays="a2_3"))["receptive_field"] == 6347  # its kernels differ, so there is no schedule


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"channels": 0}, "channels is 0: expected a positive integer"),
        ({"sample_rate": 0}, "sample_rate is 0: expected a positive number"),
        ({"ndim": 5}, "ndim is 5"),
    ],
)
def test_invalid_arguments(kwargs, message):
    with pytest.raises(WavedilError, match=message):
        inspect_schedule("1..8", **kwargs)


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (("1..512 x2", 1, 2, 64, 16000), "a.png"),
        (("2,4,8", 1, 3), "a.svg"),
        (("2,4,8", 2), "b/a.pdf"),
        (("1 x1000", 2), "a.PNG"),
        (("3", 3), "a.png"),
    ],
)
def test_plot_writes_one_file(tmp_path, args, name):
    pytest.importorskip("matplotlib")
    from wavedil.inspection.plot import plot

    path = tmp_path / name
    plot(inspect_schedule(*args), path)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[path.suffix.lower()]
    assert path.read_bytes().startswith(start)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("model", "extent"),
    [
        (WaveNet(channels=4, skip_channels=4, dilations="1..8"), (16,)),
        (WaveNet(channels=4, skip_channels=4, dilations="1..4", kernel_size=3, speakers=["a", "b"]), (15,)),
        (Effect(channels=4, skip_channels=4, dilations="1..8", knobs={"gain": [0, 1]}), (31,)),
        (Effect(channels=4, skip_channels=4, dilations="1,2", kernel_size=2), (4,)),
        (TCN(in_channels=3, out_channels=2, channels=4, dilations="1,2", kernel_size=3), (13,)),
        (Segmenter(SmallBackbone(4, output_stride=4), Conv1x1Head(4, 3), num_classes=3), None),
    ],
    ids=["wavenet", "speakers", "effect", "without knobs", "tcn", "segmenter"],
)
def test_the_measured_field_of_a_model_is_drawn(tmp_path, model, extent):
    pytest.importorskip("matplotlib")
    from wavedil.inspection.plot import plot

    field = measure_model(model)
    assert field.extent == ((model.receptive_field,) * 2 if extent is None else extent)
    inspect = model.inspection()[0] if hasattr(model, "inspection") else inspect_model
    plot(inspect(model), tmp_path / "a.svg", field, "a title & more")
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")


def test_a_model_that_cannot_be_measured_is_drawn_without(caplog):
    model = TCN(in_channels=3, out_channels=2, channels=4, dilations="1,2", kernel_size=3)
    model.forward = lambda x: x.mean()
    assert measure_model(model) is None and "the effective receptive field is not drawn" in caplog.text


def test_plot_refuses_other_suffixes(tmp_path):
    pytest.importorskip("matplotlib")
    from wavedil.inspection.plot import plot

    with pytest.raises(WavedilError, match=r"\.png, \.svg or \.pdf"):
        plot(inspect_schedule("1..8"), tmp_path / "a.bmp")
    assert not list(tmp_path.iterdir())
