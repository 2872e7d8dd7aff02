"""Compiled training: the networks and losses are one graph, results and names of tensors are those without it."""

from functools import partial

import pytest
import torch

from wavedil.audio import Effect, WaveNet, load
from wavedil.audio.effects.losses import ESR
from wavedil.ops import launch
from wavedil.ops.gate import triton as gates
from wavedil.train.run import train
from wavedil.vision import ContextModule, Segmenter, SmallBackbone
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.losses import CrossEntropy
from wavedil.vision.models.heads import Conv1x1Head


def wavenet(**options):
    network = WaveNet(8, 8, "1,2", **options)
    codes, mask = torch.randint(0, network.num_codes, (2, 50)), torch.rand(2, 50) > 0.3
    return network.loss, (codes, mask)


def effect():
    network, loss = Effect(8, 8, "1,2", knobs={"drive": [0, 1]}, sample_rate=8000), ESR()
    inputs = torch.randn(2, 1, 60), torch.rand(2, 1), torch.randn(2, 1, 40)
    return lambda x, knobs, target: loss(network(x, knobs, skip=20), target), inputs


def segmenter():
    head, loss = Conv1x1Head(in_channels=8, num_classes=3), CrossEntropy([1.0, 2.0, 0.0])
    network = Segmenter(SmallBackbone(channels=8, output_stride=4), head, ContextModule(3), num_classes=3).eval()
    labels = torch.randint(0, 3, (2, 16, 16))
    labels[0, :5] = IGNORED
    return lambda image, labels: loss(network(image), labels), (torch.rand(2, 3, 16, 16), labels)


LOSSES = {
    "softmax": partial(wavenet, num_codes=64),
    "mixture": partial(wavenet, distribution="logistics", input="scalar", quantizer="linear", num_codes=65536),
    "effect": effect,
    "segmenter": segmenter,
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_network_has_no_graph_break(name):
    torch.manual_seed(0)
    function, inputs = LOSSES[name]()
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="eager", fullgraph=True)  # raises at a graph break
    torch.testing.assert_close(compiled(*inputs), function(*inputs))


def test_compiled_code_has_no_triton_kernels(monkeypatch):
    """Inductor fuses the plain operations with their neighbors too."""
    monkeypatch.setattr(launch, "device_type", "cpu")
    monkeypatch.setattr(launch, "_MIN_ELEMENTS", 1)
    monkeypatch.setattr(gates, "compiled_kernels", lambda *_: pytest.fail("kernels were loaded"))
    function, inputs = LOSSES["softmax"]()
    torch._dynamo.reset()
    torch.compile(function, backend="eager", fullgraph=True)(*inputs).backward()


@pytest.mark.parametrize("size", [(32, 32), (33, 48)])
def test_images_of_other_sizes_need_no_other_graph(size):
    torch.manual_seed(0)
    function, (image, labels) = segmenter()
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="eager", fullgraph=True, dynamic=True)
    compiled(image, labels)
    other = torch.rand(2, 3, *size), torch.randint(0, 3, (2, *size))
    torch.testing.assert_close(compiled(*other), function(*other))


@pytest.fixture
def recipe(small_recipe):
    trainer = {"max_steps": 3, "val_check_interval": 3}
    return small_recipe({"ema_decay": 0.5, "compile": True}, {"batch_size": 2, "full_context": True}, trainer)


def test_a_compiled_run_saves_the_same_model(tmp_path, recipe, monkeypatch, capsys):
    expected = load(train(recipe, out=str(tmp_path / "plain"), overrides=["--model.compile=false"]) / "model")
    calls, compile = [], torch.compile

    def counted(function):
        compiled = compile(function, backend="eager")
        return lambda *args, **options: calls.append(1) or compiled(*args, **options)

    monkeypatch.setattr(torch, "compile", counted)
    folder = train(recipe, out=str(tmp_path / "compiled"))
    assert len(calls) == 3 and "torch.compile fails" not in capsys.readouterr().err
    found = load(folder / "model").state_dict()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    names = [
        set(torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
        for run in ("plain", "compiled")
    ]
    assert names[0] == names[1]


def test_training_goes_on_where_compilation_fails(tmp_path, recipe, monkeypatch, capsys):
    def fails(function):
        def compiled(*args, **options):
            raise RuntimeError("no C++ compiler\nat line 3")

        return compiled

    monkeypatch.setattr(torch, "compile", fails)
    folder = train(recipe, out=str(tmp_path / "run"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "torch.compile" in line]
    assert lines == ["compile is true, but torch.compile fails, so it is not used: no C++ compiler"]
    load(folder / "model")
