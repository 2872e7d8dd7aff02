"""Pruning in training: which blocks, by which schedule, and that they stay zero."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from wavedil.audio import WaveNet, load
from wavedil.audio.generation.engines.cpu.formats import choose_format
from wavedil.audio.generation.engines.cpu.packing import pack
from wavedil.core import DilatedStack
from wavedil.core.cost import zero_share
from wavedil.errors import WavedilError
from wavedil.inspection.model import inspect_model, render_model
from wavedil.train import AudioModule, BlockSparsity
from wavedil.train.run import train

CALLBACK = "{class_path: wavedil.train.BlockSparsity, init_args: {start: 0.2, end: 0.7, outputs: 4, inputs: 2}}"


class Run:
    """What the callback uses of a trainer and a module, with a number of steps as the budget."""

    def __init__(self, network, steps=100):
        self.steps, self.global_step, self.is_global_zero = steps, 0, False
        self.strategy = SimpleNamespace(broadcast=lambda value: value)
        self.optimizers = [torch.optim.SGD(network.parameters(), lr=0.1)]
        self.module = SimpleNamespace(network=network, whole=None, averaged=None, device=torch.device("cpu"))
        self.module.budget_used = lambda more: (self.global_step + more) / steps

    def train(self, callback):
        """Trains with a gradient of 1 for all weights; returns the sparsity after each step."""
        callback.on_train_start(self, self.module)
        reached = []
        for step in range(self.steps):
            self.global_step = step
            for parameter in self.module.network.parameters():
                parameter.grad = torch.ones_like(parameter)
            self.optimizers[0].step()
            reached.append(callback.reached)
        return reached


def test_the_sparsity_rises_by_the_cubic_schedule():
    stack = DilatedStack(1, 8, [1, 2], causal=True)
    reached = Run(stack).train(BlockSparsity(0.8, start=0.1, end=0.5, outputs=2, inputs=1))
    assert reached[19] == pytest.approx(0.8 * (1 - 0.75**3)) and reached[39] == pytest.approx(0.8 * (1 - 0.25**3))
    assert reached[18] == 0 and reached[38] == reached[19] and reached[48] < 0.8 and set(reached[49:]) == {0.8}
    for layer in stack.layers:
        for part in (layer.conv, layer.skip):
            assert (part.weight == 0).float().mean() == pytest.approx(0.8, abs=0.05)


def test_the_blocks_of_lowest_magnitude_are_pruned_and_those_of_the_sampler():
    torch.manual_seed(0)
    model = WaveNet(64, 64, [1, 2], hidden_channels=70, kernel_size=3, sample_rate=8000)
    weight = model.stack.layers[0].conv.weight  # (140, 64, 3)
    with torch.no_grad():
        weight[35:51, 8:12, 1] = 1e-3  # the first block of the second half of the tanh
    run = Run(model, 21)
    run.optimizers[0].param_groups[0]["lr"] = 0
    run.train(BlockSparsity(0.01, start=0, end=1))
    assert not weight[35:51, 8:12, 1].any()
    Run(model, 1).train(BlockSparsity(0.7, start=0, end=1))
    for precision in ("fp32", "bf16", "int8"):
        starts = pack(model.plan(), choose_format(precision, 1), 2, 16)[1].starts
        assert (starts < 0).sum() == len(starts) - 4  # all matrices but those of the head


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, small_recipe, interrupted_at, monkeypatch):
    monkeypatch.setattr("wavedil.train.sparsity.EVERY", 2)
    model = {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}, "ema_decay": 0.9}
    recipe = small_recipe(model, {"batch_size": 2}, {"max_steps": 12, "val_check_interval": 6})
    options = [f"--trainer.callbacks=[{CALLBACK}]"]
    full = train(recipe, out=str(tmp_path / "full"), overrides=options)
    parts = str(tmp_path / "parts")
    interrupted_at(AudioModule, 5, lambda: train(recipe, out=parts, overrides=options))
    interrupted_at(AudioModule, 10, lambda: train(out=parts, resume="auto"))
    train(out=parts, resume="auto")
    network = load(full / "model")  # the moving average
    expected = network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load(f"{parts}/model").state_dict().items())
    for layer in network.stack.layers:
        blocks = layer.conv.weight.unflatten(0, (-1, 4)).unflatten(2, (-1, 2)).abs().sum((1, 3))
        assert (blocks == 0).sum() == round(0.75 * blocks.numel())
    share = zero_share(network)
    assert inspect_model(network)["zero_weights"] == share > 0.05
    assert f"zero weights      {share:.1%}" in render_model(inspect_model(network))
    assert json.loads((full / "validation.json").read_text())["zero_weights"] == share
    assert "zero weights" in (full / "report.html").read_text()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (partial(nn.Linear, 2, 2), "trainer.callbacks has BlockSparsity, but Linear has no gated layers"),
        (partial(DilatedStack, 1, 4, [1, 2], weight_norm=True), r"layers\.0\.conv\.weight has weight norm"),
    ],
)
def test_networks_that_cannot_be_pruned_are_refused(network, message):
    with pytest.raises(WavedilError, match=message):
        Run(network()).train(BlockSparsity())


def test_sharded_weights_are_refused():
    run = Run(DilatedStack(1, 4, [1]))
    run.module.whole = object()
    with pytest.raises(WavedilError, match="trainer.strategy is fsdp: BlockSparsity needs complete weights"):
        run.train(BlockSparsity())


@pytest.mark.parametrize(
    "arguments", [{"sparsity": 1.0}, {"sparsity": 0}, {"start": 0.7, "end": 0.6}, {"end": 2.0}, {"inputs": 0}]
)
def test_arguments_are_checked(arguments):
    with pytest.raises(WavedilError, match=next(iter(arguments))):
        BlockSparsity(**arguments)
