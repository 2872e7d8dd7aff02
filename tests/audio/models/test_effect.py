"""The Effect: receptive field, streaming, knobs, start-up, and the one-pole filters."""

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, load, save
from wavedil.audio.models.one_poles import BLOCK, OnePoles
from wavedil.core.stream import select
from wavedil.errors import WavedilError

KNOBS = {"gain": [0, 1], "tone": [-2, 6]}


def make(**options):
    torch.manual_seed(0)
    settings = {"knobs": KNOBS, "sample_rate": 8000, **options}
    return Effect(6, 5, "1..8", 3, **settings).double()


def inputs(time=300, batch=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 1, time, generator=generator, dtype=torch.float64)
    return x, torch.tensor([[0.2, 5.0], [0.9, -1.0]][:batch], dtype=torch.float64)


SLOW = {"time_constants": [0.001, 0.05], "charges": [3.0, -100.0]}


@pytest.mark.parametrize("slow", [{}, SLOW])
@pytest.mark.parametrize("sizes", [[300], [1, 0, 299], [127, 1, 128, 44], [100] * 3])
def test_chunks_equal_one_pass(slow, sizes):
    model, (x, knobs) = make(**slow), inputs()
    state, parts = None, []
    for chunk in x.split(sizes, dim=2):
        y, state = model.step(chunk, state, knobs)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 2), model(x, knobs), rtol=0, atol=1e-12)
    branch, _ = model.step(x[:1], select(state, [1]), knobs[1:])
    both, _ = model.step(x[:1].expand(2, -1, -1), state, knobs)
    torch.testing.assert_close(branch, both[1:])


@pytest.mark.parametrize("slow", [{}, SLOW])
@pytest.mark.parametrize("skip", [0, 1, 30, 31, 200, 300])
def test_skip_drops_the_first_outputs_only(slow, skip):
    model, (x, knobs) = make(**slow), inputs()
    torch.testing.assert_close(model(x, knobs, skip=skip), model(x, knobs)[:, :, skip:], rtol=0, atol=1e-12)


def test_an_output_depends_on_exactly_the_receptive_field():
    model, (x, knobs) = make(), inputs(batch=1)
    assert model.receptive_field == 31
    x.requires_grad_()
    model(x, knobs)[0, 0, 100].backward()
    seen = x.grad[0, 0].nonzero().flatten()
    assert (seen.min().item(), seen.max().item()) == (70, 100)


def test_the_start_is_zero_history_not_zero_input():
    model, (x, knobs) = make(), inputs()
    after_zeros = model(torch.cat([torch.zeros(2, 1, 100, dtype=torch.float64), x], 2), knobs)[:, :, 100:]
    y = model(x, knobs)
    assert (after_zeros - y)[:, :, :30].abs().max() > 1e-3
    torch.testing.assert_close(after_zeros[:, :, 30:], y[:, :, 30:], rtol=0, atol=1e-12)


def test_knobs_condition_every_layer_and_may_change_between_chunks():
    model, (x, knobs) = make(), inputs()
    y = model(x, knobs)
    for index in range(2):
        alone = model(x[index : index + 1], knobs[index : index + 1])
        torch.testing.assert_close(alone, y[index : index + 1])
    gradients = torch.autograd.grad(y.sum(), [layer.condition.weight for layer in model.stack.layers])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    first, state = model.step(x[:, :, :100], None, knobs)
    turned, _ = model.step(x[:, :, 100:], state, 1 - knobs)
    assert torch.equal(first, model.step(x[:, :, :100], None, knobs)[0])
    assert (turned - y[:, :, 100:]).abs().max() > 1e-4


def test_knob_ranges_are_mapped_to_minus_1_to_1():
    model = make(knob_channels=0)
    ends = torch.tensor([[0.0, 6.0], [0.5, 2.0]], dtype=torch.float64)
    assert model.condition(ends)[:, :, 0].tolist() == [[-1, 1], [0, 0]]
    fractions = make(knob_channels=0, knobs={"gain": [-0.5, 0.5], "tone": [0, 4]})
    assert fractions.condition(torch.tensor([[0, 4]]))[:, :, 0].tolist() == [[0, 1]]  # integers


@pytest.mark.parametrize("knob_channels", [0, 3])
def test_knobs_may_change_from_sample_to_sample(knob_channels):
    model, (x, _) = make(knob_channels=knob_channels, **SLOW), inputs()
    generator = torch.Generator().manual_seed(2)
    knobs = torch.rand(2, 2, 300, generator=generator, dtype=torch.float64)
    whole, state, parts = model(x, knobs), None, []
    for t in range(300):
        y, state = model.step(x[:, :, t : t + 1], state, knobs[:, :, t])
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)
    torch.testing.assert_close(model(x, knobs, 120), whole[:, :, 120:])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gain": 1.5, "tone": 0}, r"knob 'gain' is 1.5: expected a value in 0..1"),
        ({"gain": float("nan"), "tone": 0}, r"knob 'gain' is nan"),
        ({"gain": 0.5}, r"knob 'tone' is not set: give a value in -2..6"),
        ({"gain": 10**400, "tone": 0}, r"knob 'gain' is .*: expected a value in 0..1"),
        ({"gain": 0.5, "tone": 0, "drive": 1}, r"knob 'drive' is unknown: expected one of gain, tone"),
    ],
)
def test_bad_knob_values_are_refused(values, message):
    with pytest.raises(WavedilError, match=message):
        make().knob_values(values)


def test_knob_values_by_name():
    assert make().knob_values({"tone": 6, "gain": 0.5}).tolist() == [0.5, 6]
    assert make(knobs=None).knob_values({}).shape == (0,)
    with pytest.raises(WavedilError, match="expected none"):
        make(knobs=None).knob_values({"gain": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"knobs": {"gain": [1, 1]}}, r"range \[1, 1\]"),
        (
            {"knobs": {"gain": [1, 1.000001]}},
            r"range \[1, 1.000001\]: expected \[lowest, highest\], which differ by more",
        ),
        ({"knobs": {"gain": [0, 1e9]}}, "expected a dictionary of lists of numbers from -1000000 to 1000000"),
        ({"skip_channels": 0}, "skip_channels is 0"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"settle": -1}, "settle is -1"),
        ({"time_constants": [0.1], "charges": [1, 2]}, "charges has 2 values"),
        ({"time_constants": [0.0]}, "time_constants is"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(WavedilError, match=message):
        Effect(**{"dilations": "1,2", **options})


def test_bad_inputs_are_refused():
    model, (x, knobs) = make(), inputs()
    for arguments, message in (
        ((x[:, 0], knobs), r"expected \(batch, 1, time\)"),
        ((x, None), "knobs is None"),
        ((x, knobs[:, :1]), r"of shape \(2, 1\): expected \(2, 2\) or \(2, 2, 300\), for gain, tone"),
        ((x, knobs.unsqueeze(2)), r"of shape \(2, 2, 1\): expected \(2, 2\) or"),
        ((x, knobs, 301), "skip is 301"),
    ):
        with pytest.raises(WavedilError, match=message):
            model(*arguments)


def test_a_loaded_model_equals_the_saved_one(tmp_path):
    model = make(**SLOW).float().eval()
    again = load(save(model, tmp_path / "model"), expect=type(model))
    x, knobs = (t.float() for t in inputs())
    assert torch.equal(again(x, knobs), model(x, knobs))
    assert again.knobs == {"gain": (0, 1), "tone": (-2, 6)} and again.settle == model.settle


def filter_by_recursion(x, samples, charge):
    """The definition of the filter, sample by sample."""
    a, state, y = np.exp(-1 / samples), charge, []
    for value in x:
        state = a * state + (1 - a) * value
        y.append(state)
    return np.array(y)


@pytest.mark.parametrize("time", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_one_poles_equal_the_recursion(time):
    filters = OnePoles([0.01, 0.2], [2.0, -30.0], 1000).double()
    x = inputs(time)[0]
    y = filters(x)
    assert torch.equal(y[:, :1], x)
    for row in range(2):
        for index, (samples, charge) in enumerate(((10, 2.0), (200, -30.0))):
            expected = filter_by_recursion(x[row, 0].numpy(), samples, charge)
            np.testing.assert_allclose(y[row, 1 + index].detach().numpy(), expected, atol=1e-6)


def test_gradient_of_the_time_constants():
    filters = OnePoles([0.01, 0.05], [1.0, 2.0], 1000).double()
    x = inputs(BLOCK + 50)[0]

    def loss(log_samples):
        y = torch.func.functional_call(filters, {"log_samples": log_samples}, x)
        return y[:, 1:].square().sum()

    assert torch.autograd.gradcheck(loss, filters.log_samples.detach().requires_grad_())


def test_settle_covers_receptive_field_and_charges():
    assert make().settle == 31 / 8000
    assert make(time_constants=[0.1, 0.01]).settle == pytest.approx(31 / 8000 + 0.5)
    assert make(time_constants=[0.1], charges=[-100.0]).settle == pytest.approx(31 / 8000 + 0.1 * np.log(1e6))
    assert make(settle=2.0).settle == 2.0
