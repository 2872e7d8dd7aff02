"""ONNX: the whole model, or its streaming step with the state as inputs and outputs. Needs the ``export`` extra."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError
from wavedil.files import written_beside

OPSET = 18
#: The name of the first input of each model that can be exported.
INPUTS = {"WaveNet": "codes", "NAM": "sound", "TCN": "features"}
#: How far onnxruntime's output may be from torch's, relative to the largest output: float32 in another order.
TOLERANCE = 1e-4


class _Step(nn.Module):
    """``step`` with the state as so many tensors."""

    def __init__(self, model: nn.Module, keys: Sequence[str]):
        super().__init__()
        self.model, self.keys = model, tuple(keys)

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        y, new = self.model.step(x, dict(zip(self.keys, state, strict=True)))
        return y, *(new[key] for key in self.keys)


def export_onnx(model: nn.Module, path: str | Path, streaming: bool = False) -> Path:
    """Writes ``model`` as an ONNX file and compares it with torch, in onnxruntime, at another batch and length.

    The whole model takes a batch of any size and length (``codes`` of a WaveNet, ``sound`` of an amplifier model) and
    gives ``output``, as ``model(…)``. With ``streaming`` it takes a chunk of at least one step and the state, one input
    for each tensor of it, and gives ``output`` and the state after it, each under its name with ``next.`` before it:
    feed them back. ``FILE.start.npz`` holds the state before the first chunk, of one stream; for more, repeat it.

    Raises:
        WavedilError: a model of another class, or that cannot stream; or outputs that are not the same.
    """
    import onnxruntime

    name = type(model).__name__
    if name not in INPUTS:
        raise WavedilError(f"a {name} cannot be exported to ONNX: expected one of {', '.join(INPUTS)}")
    path, model = Path(path), model.eval()
    x = _example(model, batch=2, time=50)
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    shapes: list = [{0: batch, x.ndim - 1: time}]
    with torch.no_grad(), written_beside(path) as beside:
        start = model.step(x[..., :0])[1] if streaming else {}
        keys = list(start)
        if streaming:
            shapes.append(tuple({0: batch} for _ in keys))
        with warnings.catch_warnings():
            # The exporter tells of axes that share a name and of its own use of what torch has deprecated.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Step(model, keys).eval() if streaming else model,
                (x, *start.values()),
                dynamo=True,
                dynamic_shapes=tuple(shapes),
                input_names=[INPUTS[name], *keys],
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


def _example(model: nn.Module, batch: int, time: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if type(model).__name__ == "WaveNet":
        return torch.randint(model.codes, (batch, time), generator=generator)
    channels = model.config.get("in_channels", 1)
    return torch.randn(batch, channels, time, generator=generator).to(next(model.parameters()).dtype)


def _compare(model: nn.Module, session, keys: Sequence[str]) -> None:
    """The file's outputs and the model's, at another batch and length than it was traced at, chunk by chunk."""
    x = _example(model, batch=3, time=91)
    expected = model(x)
    if keys:
        state = {key: value.numpy() for key, value in model.step(x[..., :0])[1].items()}
        parts = []
        for chunk in x.split([1, 60, 30], dim=-1):
            y, *new = session.run(None, {session.get_inputs()[0].name: chunk.numpy(), **state})
            state = dict(zip(keys, new, strict=True))
            parts.append(torch.from_numpy(y))
        found = torch.cat(parts, dim=-1)
    else:
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    far = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    if not far <= TOLERANCE:
        raise WavedilError(
            f"onnxruntime's output is {far:.1e} of the largest away from torch's, more than {TOLERANCE:.0e}: nothing "
            "was written; try another version of torch, onnxscript or onnxruntime"
        )
