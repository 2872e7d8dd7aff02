"""ONNX: the whole model, or its streaming step with the state as inputs and outputs. Needs the ``export`` extra."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.core.stream import State
from wavedil.errors import WavedilError
from wavedil.files import written_beside

OPSET = 18
#: The name of the first input of each model that can be exported.
INPUTS = {"WaveNet": "codes", "NAM": "sound", "TCN": "features"}
#: How far onnxruntime's output may be from torch's, relative to the largest output: float32 in another order.
TOLERANCE = 1e-4


class _Step(nn.Module):
    """``step`` with the state as so many tensors, between the input and, if there is one, the condition."""

    def __init__(self, model: nn.Module, keys: Sequence[str]):
        super().__init__()
        self.model, self.keys = model, tuple(keys)

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        state = dict(zip(self.keys, others, strict=False))
        y, new = self.model.step(x, state, *others[len(self.keys) :])
        return y, *(new[key] for key in self.keys)


def export_onnx(model: nn.Module, path: str | Path, streaming: bool = False) -> Path:
    """Writes ``model`` as an ONNX file and compares it with torch, in onnxruntime, at another batch and length.

    The whole model takes a batch of any size and length (``codes`` of a WaveNet, ``sound`` of an amplifier model), and
    its ``condition`` at the sample rate where it has one, and gives ``output``, as ``model(…)``. With ``streaming`` it
    takes a chunk of at least one step and the state, one input for each tensor of it, and gives ``output`` and the
    state after it, each under its name with ``next.`` before it: feed them back. ``FILE.start.npz`` holds the state
    before the first chunk, of one stream; for more, repeat it.

    Raises:
        WavedilError: a model of another class, or that cannot stream; or outputs that are not the same.
    """
    import onnxruntime

    name = type(model).__name__
    if name not in INPUTS:
        raise WavedilError(f"a {name} cannot be exported to ONNX: expected one of {', '.join(INPUTS)}")
    path, model = Path(path), model.eval()
    inputs = _example(model, batch=2, time=50)
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    along_time = [{0: batch, x.ndim - 1: time} for x in inputs]
    with torch.no_grad(), written_beside(path) as beside:
        start = _start(model, inputs) if streaming else {}
        keys = list(start)
        # The step's state comes in as a variable number of arguments, with what follows it.
        states = [{0: batch} for _ in keys]
        shapes = (along_time[0], (*states, *along_time[1:])) if streaming else tuple(along_time)
        with warnings.catch_warnings():
            # The exporter tells of axes that share a name and of its own use of what torch has deprecated.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Step(model, keys).eval() if streaming else model,
                (inputs[0], *start.values(), *inputs[1:]),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[INPUTS[name], *keys, *["condition"] * (len(inputs) - 1)],
                output_names=["output", *(f"next.{key}" for key in keys)],
                opset_version=OPSET,
                verbose=False,
            )
        program.save(beside)
        session = onnxruntime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        _compare(model, session, keys)
        if streaming:
            with written_beside(path.with_suffix(".start.npz")) as sidecar:
                np.savez(sidecar, **{key: value[:1].numpy() for key, value in start.items()})
    return path


def _example(model: nn.Module, batch: int, time: int) -> list[Tensor]:
    """The input, and the condition where the model has one."""
    generator = torch.Generator().manual_seed(0)
    if type(model).__name__ == "WaveNet":
        codes = torch.randint(model.codes, (batch, time), generator=generator)
        channels = model.conditioner.channels
        return [codes, *([torch.randn(batch, channels, time, generator=generator)] if channels else [])]
    channels = model.config.get("in_channels", 1)
    return [torch.randn(batch, channels, time, generator=generator)]


def _start(model: nn.Module, inputs: Sequence[Tensor]) -> State:
    """The state after a chunk of nothing: that before the first."""
    empty = [x[..., :0] for x in inputs]
    return model.step(empty[0], None, *empty[1:])[1]


def _compare(model: nn.Module, session, keys: Sequence[str]) -> None:
    """The file's outputs and the model's, at another batch and length than it was traced at, chunk by chunk."""
    inputs = _example(model, batch=3, time=91)
    names = [one.name for one in session.get_inputs() if one.name not in keys]
    expected = model(*inputs)
    state = {key: value.numpy() for key, value in _start(model, inputs).items()} if keys else {}
    parts = []
    for chunks in zip(*(x.split([1, 60, 30] if keys else 91, dim=-1) for x in inputs), strict=True):
        given = {name: chunk.numpy() for name, chunk in zip(names, chunks, strict=True)}
        y, *new = session.run(None, given | state)
        state = dict(zip(keys, new, strict=True))
        parts.append(torch.from_numpy(y))
    far = (torch.cat(parts, dim=-1) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    if not far <= TOLERANCE:
        raise WavedilError(
            f"onnxruntime's output is {far:.1e} of the largest away from torch's, more than {TOLERANCE:.0e}: nothing "
            "was written; try another version of torch, onnxscript or onnxruntime"
        )
