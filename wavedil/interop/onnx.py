"""ONNX: the whole model, or its streaming step with the state as inputs and outputs. Needs the ``export`` extra."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.core.stream import State
from wavedil.errors import WavedilError
from wavedil.files import written_beside

OPSET = 18
#: The name of the first input of each model that can be exported.
INPUTS = {"WaveNet": "codes", "Effect": "sound", "NAM": "sound", "TCN": "features"}
#: The input that has no time axis: it holds for the whole of a chunk.
KNOBS = "knobs"
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

    The whole model takes a batch of any size and length (``codes`` of a WaveNet, ``sound`` of an effect or amplifier),
    beside it, where the model has them, the ``condition`` at the sample rate or the ``knobs``, and gives ``output``, as
    ``model(…)``. With ``streaming`` it takes a chunk of at least one step and the state, one input for each tensor of
    it, and gives ``output`` and the state after it, each under its name with ``next.`` before it: feed them back.
    ``FILE.start.npz`` holds the state before the first chunk, of one stream; for more, repeat it.

    Raises:
        WavedilError: a model of another class, or that torch cannot export, or that cannot stream; or outputs that are
            not the same.
    """
    import onnxruntime

    name = INPUTS.get(type(model).__name__)
    if name is None:
        raise WavedilError(f"a {type(model).__name__} cannot be exported to ONNX: expected one of {', '.join(INPUTS)}")
    path, model = Path(path), model.eval()
    # Long enough that no length inside is 1, which the exporter would take for a constant.
    inputs = _example(model, batch=2, time=300)
    first, *others = inputs.values()
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    axes = [{0: batch} if key == KNOBS else {0: batch, x.ndim - 1: time} for key, x in inputs.items()]
    with torch.no_grad(), written_beside(path) as beside:
        start = _start(model, inputs) if streaming else {}
        keys = list(start)
        # The step's state comes in as a variable number of arguments, with what follows it.
        states = [{0: batch} for _ in keys]
        with warnings.catch_warnings():
            # The exporter tells of axes that share a name and of its own use of what torch has deprecated.
            warnings.simplefilter("ignore")
            try:
                program = torch.onnx.export(
                    _Step(model, keys).eval() if streaming else model,
                    (first, *start.values(), *others),
                    dynamo=True,
                    dynamic_shapes=(axes[0], (*states, *axes[1:])) if streaming else tuple(axes),
                    input_names=[name, *keys, *list(inputs)[1:]],
                    output_names=["output", *(f"next.{key}" for key in keys)],
                    opset_version=OPSET,
                    verbose=False,
                )
            except torch.onnx.errors.OnnxExporterError as error:
                reason = " ".join(str(error.__cause__ or error).split())[:200]
                raise WavedilError(f"torch cannot export this {type(model).__name__} to ONNX: {reason}") from None
        program.save(beside)
        session = onnxruntime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        _compare(model, session, keys)
        if streaming:
            with written_beside(path.with_suffix(".start.npz")) as sidecar:
                np.savez(sidecar, **{key: value[:1].numpy() for key, value in start.items()})
    return path


def _example(model: nn.Module, batch: int, time: int) -> dict[str, Tensor]:
    """Random inputs by name: that of sound first, and what the model hears beside it."""
    generator = torch.Generator().manual_seed(0)
    if type(model).__name__ == "WaveNet":
        inputs = {"codes": torch.randint(model.num_codes, (batch, time), generator=generator)}
        channels = model.conditioner.channels
        return inputs | ({"condition": torch.randn(batch, channels, time, generator=generator)} if channels else {})
    channels, knobs = model.config.get("in_channels", 1), list(getattr(model, "knobs", {}).values())
    inputs = {INPUTS[type(model).__name__]: torch.randn(batch, channels, time, generator=generator)}
    if knobs:
        low, high = torch.tensor(knobs).T
        inputs[KNOBS] = low + (high - low) * torch.rand(batch, len(knobs), generator=generator)
    return inputs


def _start(model: nn.Module, inputs: Mapping[str, Tensor]) -> State:
    """The state after a chunk of nothing: that before the first."""
    first, *others = _part(inputs, slice(0, 0)).values()
    return model.step(first, None, *others)[1]


def _part(inputs: Mapping[str, Tensor], span: slice) -> dict[str, Tensor]:
    return {key: x if key == KNOBS else x[..., span] for key, x in inputs.items()}


def _compare(model: nn.Module, session, keys: Sequence[str]) -> None:
    """The file's outputs and the model's, at another batch and length than it was traced at, chunk by chunk."""
    inputs = _example(model, batch=3, time=391)
    expected = model(*inputs.values())
    state = {key: value.numpy() for key, value in _start(model, inputs).items()} if keys else {}
    parts = []
    for span in (slice(0, 1), slice(1, 262), slice(262, 391)) if keys else (slice(0, 391),):
        given = {key: x.numpy() for key, x in _part(inputs, span).items()}
        y, *new = session.run(None, given | state)
        state = dict(zip(keys, new, strict=True))
        parts.append(torch.from_numpy(y))
    far = (torch.cat(parts, dim=-1) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    if not far <= TOLERANCE:
        raise WavedilError(
            f"onnxruntime's output is {far:.1e} of the largest away from torch's, more than {TOLERANCE:.0e}: nothing "
            "was written; try another version of torch, onnxscript or onnxruntime"
        )
