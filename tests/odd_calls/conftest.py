"""Odd arguments of public functions: a correct result or a WavedilError of one line, never another exception.

Each function is called with valid arguments, of which one is replaced by an odd value.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from wavedil import audio
from wavedil.errors import WavedilError

ODD = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "1.5": 1.5,
    "nan": math.nan,
    "-inf": -math.inf,
    "2**70": 2**70,
    "10**400": 10**400,
    "text": "odd",
    "empty text": "",
    "bytes": b"odd",
    "complex": 1j,
    "empty list": [],
    "nested list": [[1, 2], [3]],
    "list of texts": ["a", "b"],
    "list of None": [None],
    "dict": {"odd": 1},
    "set": {1},
    "object": object(),
    "class": dict,
    "function": len,
    "int64 of numpy": np.int64(3),
    "bool of numpy": np.True_,
    "float32 of numpy": np.float32(0.5),
    "texts of numpy": np.array(["a"]),
    "objects of numpy": np.array([None, 1]),
    "array of NaN": np.full((1, 1, 4), np.nan),
    "complex tensor": torch.zeros(1, 1, 4, dtype=torch.complex64),
    "tensor without numbers": torch.empty(1, 1, 4, device="meta"),
    "sparse tensor": torch.zeros(4, 4).to_sparse(),
    "empty tensor": torch.zeros(0),
    "tensor of rank 5": torch.zeros(1, 1, 1, 1, 1),
}


IMAGE = np.zeros((12, 16, 3), np.uint8)


@pytest.fixture(scope="session")
def odd() -> dict[str, Any]:
    return ODD


@pytest.fixture
def outcome():
    """A function that returns the error of a call, or an empty text; other exceptions are raised."""

    def call(function: Any, arguments: dict[str, Any]) -> str:
        try:
            function(**{key: _made(value) for key, value in arguments.items()})
        except WavedilError as error:
            text = str(error)
            assert text and "\n" not in text, text
            return text
        return ""

    return call


@pytest.fixture
def check_odd_arguments(outcome):
    """A function that calls another with each odd value of each argument."""

    def check(function: Any, valid: dict[str, Any], more: dict[str, Any]) -> None:
        for argument in valid.keys() | more.keys():
            values = ODD | {str(index): value for index, value in enumerate(more.get(argument, ()))}
            for text, value in values.items():
                if argument in ("progress", "refine") and (value is len or value is dict):
                    continue  # it is called, and its errors are the caller's
                try:
                    outcome(function, valid | {argument: value})
                except Exception as error:
                    error.add_note(f"{argument} is {text}")
                    raise

    return check


def _made(value: Any) -> Any:
    """The value of an argument: models are made when they are used."""
    return value() if isinstance(value, type(cache(len))) else value


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """A working folder with a sound, a model and an image."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        audio.write("in.wav", np.zeros((1, 50), np.float32), 8000)
        audio.save(audio.WaveNet(4, 4, "1,2", num_codes=16, sample_rate=8000), "model")
        Image.fromarray(IMAGE).save("in.png")
        yield
