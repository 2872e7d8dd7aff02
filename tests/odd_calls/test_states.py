"""Broken streaming states: refused in one line, or equal to the state that they were made of."""

import math
from functools import cache
from typing import Any

import pytest
import torch

from wavedil import audio


@cache
def wavenet() -> audio.WaveNet:
    torch.manual_seed(0)
    return audio.WaveNet(4, 4, "1,2", input_kernel_size=2, num_codes=16, sample_rate=8000).eval()


@cache
def state() -> dict[str, torch.Tensor]:
    chunks = audio.stream(wavenet(), seed=1, num=2, chunk=5)
    next(chunks)
    return chunks.state()


def broken_states() -> dict[str, Any]:
    """The state of two streams with one entry missing, or in another form, or another model's."""
    made, states = state(), {}
    for key, value in made.items():
        states[f"{key} missing"] = {name: entry for name, entry in made.items() if name != key}
        changes = {
            "None": None, "list": value.tolist(), "array": value.numpy(), "short": value[:1],
            "long": torch.cat([value] * 2),
            "scalar": value.sum(), "NaN": value.double() * math.nan,
            "complex": value + 0j, "negative": -1 - value.abs(),
            "large": value.abs() + 2.0**70, "meta": value.to("meta"), "sparse": value.float().to_sparse(),
            "half": value.half(), "double": value.double(), "int32": value.int(), "bool": value > 0, "text": "odd",
        }  # fmt: skip
        states |= {f"{key} {name}": made | {key: changed} for name, changed in changes.items()}
    other = audio.WaveNet(4, 4, "1,2,4", num_codes=16, sample_rate=8000).eval().start(2)
    return states | {"another model's": other, "key that is no text": made | {1: made["previous"]}}


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_broken_states_are_refused(engine, outcome):
    expected = audio.generate(wavenet(), 6, state=state(), engine=engine)
    for text, broken in broken_states().items():
        try:
            error = outcome(lambda state: next(audio.stream(wavenet(), state=state, engine=engine)), {"state": broken})
        except Exception as problem:
            problem.add_note(f"state with {text}")
            raise
        accepted = not error
        if text.split()[-1] in ("missing", "None", "list", "array", "short", "long", "scalar", "NaN", "text"):
            assert not accepted, text
        if accepted and text.split()[-1] in ("int32", "double"):
            assert torch.equal(audio.generate(wavenet(), 6, state=broken, engine=engine), expected), text
