"""The interface between models and engines: states of models and of plans agree, and plans map their tensors."""

import pytest
import torch

from wavedil.audio import WaveNet
from wavedil.audio.generation.plan import make_state, read_state
from wavedil.errors import WavedilError

VARIANTS = [
    {},
    {"kernel_size": 1},
    {"kernel_size": 3, "input_kernel_size": 4},
    {"input": "scalar", "input_kernel_size": 2, "hidden_channels": 5},
]


def make(**options) -> WaveNet:
    torch.manual_seed(0)
    return WaveNet(8, 12, "1,2,5", num_codes=31, sample_rate=8000, **options).eval()


@pytest.mark.parametrize("options", VARIANTS)
def test_the_state_template_matches_the_state_of_the_model(options):
    model = make(**options)
    template, start = model.plan().state_template(3), model.start(3)
    assert {key: (value.shape, value.dtype) for key, value in template.items()} == {
        key: (value.shape, value.dtype) for key, value in start.items()
    }


@pytest.mark.parametrize("options", VARIANTS)
def test_make_state_is_the_inverse_of_read_state(options):
    model = make(**options)
    with torch.no_grad():
        _, state = model.step(torch.randint(31, (2, 20)))
    codes, histories = read_state(state, 3)
    again = make_state(codes, histories)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)
    codes.fill_(0)
    assert torch.equal(again["previous"], state["previous"])  # a copy


def test_map_tensors_changes_every_tensor_and_checks_the_result():
    plan = make(input="scalar").plan()
    doubled = plan.map_tensors(torch.Tensor.double)
    assert doubled.input_embedding.levels.dtype == doubled.head[1][0].dtype == torch.float64
    assert doubled.layers[-1].residual is None and doubled.layers[0].residual.dtype == torch.float64
    with pytest.raises(WavedilError, match="weights hold NaN"):
        plan.map_tensors(lambda tensor: tensor / 0)
