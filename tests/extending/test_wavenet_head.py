"""A head of WaveNet defined outside the package: training, model folders and generation use it."""

import pytest
import torch
from torch import Tensor, nn

from wavedil.audio import WaveNet, generate, load, save, stream
from wavedil.audio.generation.engines import choose
from wavedil.audio.models.wavenet import Head
from wavedil.errors import WavedilError
from wavedil.weights import check_savable, register


@register
class GLUHead(nn.Module):
    """Gated linear unit between two 1x1 convolutions."""

    def __init__(self, channels: int, parameters: int):
        super().__init__()
        self.hidden, self.out = nn.Conv1d(channels, 20, 1), nn.Conv1d(10, parameters, 1)

    def forward(self, skips: Tensor) -> Tensor:
        return self.out(nn.functional.glu(self.hidden(skips), 1))


def make(**options) -> WaveNet:
    torch.manual_seed(0)
    return WaveNet(8, 12, "1..8", num_codes=31, head=GLUHead(12, 31), **options).eval()


def test_training_reaches_the_weights_of_the_head():
    model, codes = make(), torch.randint(31, (2, 50))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    model.set_prior(torch.ones(31))  # only the built-in head can start from it
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(model.loss(codes))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.5 and model.head.out.weight.grad.abs().sum() > 0


def test_a_loaded_model_generates_the_codes_of_the_saved_one(tmp_path):
    model = make(weight_norm=True)
    again = load(save(model, tmp_path / "model"))
    assert type(again.head) is GLUHead
    sound = generate(model, 60, num=2, seed=1)
    assert torch.equal(sound, generate(again, 60, num=2, seed=1))
    source = stream(again, num=2, seed=1, chunk=7)
    assert torch.equal(torch.cat([next(source) for _ in range(8)], 2), sound[..., :56])


def test_generated_codes_are_those_of_the_teacher_forced_pass():
    model = make()
    codes = model.encode(generate(model, 40, temperature=0)[:, 0])
    assert torch.equal(model.double()(codes).argmax(1), codes)


def test_compiled_engines_refuse_it():
    model = make()
    assert choose("auto", model.plan(), 1) == "torch"
    with pytest.raises(WavedilError, match="no support for a GLUHead as head"):
        generate(model, 5, engine="numba")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": GLUHead(12, 30)}, r"head returns \(1, 30, 1\) .*expected \(1, 31, 1\)"),
        ({"head": GLUHead(11, 31)}, "head does not take"),
        ({"head": GLUHead(12, 31), "head_channels": 4}, "set only one of them"),
    ],
)
def test_heads_that_do_not_fit_are_refused(options, message):
    with pytest.raises(WavedilError, match=message):
        WaveNet(8, 12, "1..8", num_codes=31, **options)


class LouderHead(Head):
    """Has the tensors of the built-in head, but computes something else."""

    def forward(self, skips: Tensor) -> Tensor:
        return 2 * super().forward(skips)


@pytest.mark.parametrize("head", [GLUHead(12, 31), LouderHead(12, 12, 31)])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_replaced_head_is_refused_before_it_is_trained(tmp_path, head, loaded):
    model = WaveNet(8, 12, "1..8", num_codes=31)
    model = load(save(model, tmp_path / "model")) if loaded else model
    check_savable(model)
    model.head = head
    with pytest.raises(WavedilError, match="pass your own parts as arguments"):
        check_savable(model)
