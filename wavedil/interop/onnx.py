"""ONNX export of a model, or of its streaming step with the state as inputs and outputs. Needs extra ``export``."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.audio.distributions.quantizers import QUANTIZERS
from wavedil.core.stream import State
from wavedil.errors import WavedilError, with_article
from wavedil.writing import atomic_write

OPSET = 18
#: The only input without a time axis: it is constant in a chunk.
KNOBS = "knobs"
#: Largest difference of onnxruntime's output from torch's, relative to the largest output: float32 rounding.
TOLERANCE = 1e-4


class _Step(nn.Module):
    """``step`` with the tensors of the state as inputs, between the first input and the condition or knobs."""

    def __init__(self, model: nn.Module, keys: Sequence[str]):
        super().__init__()
        self.model, self.keys = model, tuple(keys)

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        state = dict(zip(self.keys, others, strict=False))
        y, new = self.model.step(x, state, *others[len(self.keys) :])
        return y, *(new[key] for key in self.keys)


def export_onnx(
    model: nn.Module, path: str | Path, streaming: bool = False, knobs: Mapping[str, float] | None = None
) -> Path:
    """Writes ``model`` as an ONNX file, a dense predictor by :func:`wavedil.interop.onnx_images.export_predictor`.

    Compares onnxruntime with torch, at another batch size and length.

    The first input is named by the class attribute ``input_name``, e.g. ``codes`` for a WaveNet, and has any batch size
    and length. If the model has them, ``condition`` (at the sample rate) or ``knobs`` follow. ``output`` is the result
    of ``model(…)``. With ``streaming`` the input is a chunk of at least one step. Each tensor of the state is an input,
    and its new value is the output with the prefix ``next.``, which is the input of the next call. ``FILE.start.npz``
    holds the state before the first chunk of one stream, that of an effect after ``settle`` seconds of silence, with
    which ``wavedil process`` starts; repeat it along the batch for more. :func:`example_code` uses it.

    The file's metadata have ``sample_rate`` in Hz, ``knobs`` with their ranges and ``quantizer`` as JSON, and
    ``receptive_field`` in samples, as far as the model has them; ``start_knobs`` are those of the start state.

    Args:
        knobs: settings by name at the start, with ``streaming``; default: the middle of each range.

    Raises:
        WavedilError: the model is of another class, cannot stream, cannot be exported by torch, or its outputs differ.
    """
    import onnxruntime

    if hasattr(model, "coarse_scores"):
        from wavedil.interop.onnx_images import export_predictor

        if streaming:
            raise WavedilError(f"streaming: {with_article(model)} has no streaming step; leave it out")
        return export_predictor(model, path)
    name = getattr(model, "input_name", None)
    if name is None:
        raise WavedilError(
            f"{with_article(model)} cannot be exported to ONNX: expected a WaveNet, Effect, NAM, TCN, Segmenter or "
            "Regressor, or a class with input_name"
        )
    path, model = Path(path), model.eval()
    # Long enough that no length inside is 1, which the exporter would treat as a constant.
    inputs = _example(model, batch=2, time=300)
    first, *others = inputs.values()
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    axes = [{0: batch} if key == KNOBS else {0: batch, x.ndim - 1: time} for key, x in inputs.items()]
    with torch.no_grad(), atomic_write(path) as beside:
        settings = start_knobs(model, knobs or {})
        start = _start(model, inputs) if streaming else {}
        keys = list(start)
        # The state and what follows it are variable arguments of _Step.
        states = [{0: batch} for _ in keys]
        # The exporter warns of axes that share a name and that it uses deprecated functions.
        with warnings.catch_warnings(action="ignore"):
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
        program.model.metadata_props.update(_metadata(model, settings if streaming else {}))
        program.save(beside)
        session = onnxruntime.InferenceSession(beside.read_bytes(), providers=["CPUExecutionProvider"])
        _compare(model, session, keys)
        if streaming:
            with atomic_write(path.with_suffix(".start.npz")) as sidecar:
                np.savez(sidecar, **{key: value.numpy() for key, value in _settled(model, settings, start).items()})
    return path


def start_knobs(model: nn.Module, values: Mapping[str, float]) -> dict[str, float]:
    """Settings of all knobs: ``values``, and the middle of the range for others.

    Raises:
        WavedilError: a knob is unknown or out of its range.
    """
    ranges = getattr(model, "knobs", {})
    settings = {name: (low + high) / 2 for name, (low, high) in ranges.items()} | dict(values)
    if settings != {}:
        if not ranges:
            raise WavedilError(
                f"knob {next(iter(settings))!r} is unknown: {with_article(model)} like this has no knobs"
            )
        model.knob_values(settings)
    return {name: float(settings[name]) for name in ranges}


def example_code(model: nn.Module, path: str | Path, knobs: Mapping[str, float] | None = None) -> str:
    """Three lines of Python that run a streaming file: the first once, the others for each chunk."""
    path, settings = Path(path), list(start_knobs(model, knobs or {}).values())
    codes = model.input_name == "codes"
    shape = "int64 (1, time)" if codes else f"float32 (1, {model.config.get('in_channels', 1)}, time)"
    feed = f'"{model.input_name}": chunk, '
    if codes and model.conditioner.channels:
        feed += '"condition": condition, '
    feed += f'"{KNOBS}": numpy.float32([{settings}]), ' if settings else ""
    return (
        f"session, state = onnxruntime.InferenceSession({str(path)!r}), "
        f"dict(numpy.load({str(path.with_suffix('.start.npz'))!r}))\n"
        f"output, *new = session.run(None, {{{feed}**state}})  # chunk: {shape}\n"
        "state = dict(zip(state, new))"
    )


def _example(model: nn.Module, batch: int, time: int) -> dict[str, Tensor]:
    """Random inputs by name: codes or sound first, then condition or knobs."""
    generator = torch.Generator().manual_seed(0)
    if model.input_name == "codes":
        inputs = {"codes": torch.randint(model.num_codes, (batch, time), generator=generator)}
        channels = model.conditioner.channels
        return inputs | ({"condition": torch.randn(batch, channels, time, generator=generator)} if channels else {})
    channels, knobs = model.config.get("in_channels", 1), list(getattr(model, "knobs", {}).values())
    inputs = {model.input_name: torch.randn(batch, channels, time, generator=generator)}
    if knobs:
        low, high = torch.tensor(knobs).T
        inputs[KNOBS] = low + (high - low) * torch.rand(batch, len(knobs), generator=generator)
    return inputs


def _start(model: nn.Module, inputs: Mapping[str, Tensor]) -> State:
    """The state before the first chunk, which a chunk of length 0 returns."""
    first, *others = _part(inputs, slice(0, 0)).values()
    return model.step(first, None, *others)[1]


def _settled(model: nn.Module, settings: Mapping[str, float], start: State) -> State:
    """The state of one stream after the silence that a live effect starts with."""
    state = {key: value[:1] for key, value in start.items()}
    left = math.ceil(getattr(model, "settle", 0) * getattr(model, "sample_rate", 0))
    others = [model.knob_values(settings).unsqueeze(0)] if settings else []
    if left:  # silence from the start, which the knobs may change
        state = None
    while left:
        size = min(left, 2**15)
        state, left = model.step(torch.zeros(1, 1, size), state, *others)[1], left - size
    return state


def _metadata(model: nn.Module, settings: Mapping[str, float]) -> dict[str, str]:
    """Metadata of the file, as text: sample rate, receptive field, knobs, quantizer."""
    values: dict[str, Any] = {"wavedil_class": type(model).__name__}
    for name in ("sample_rate", "receptive_field"):
        if isinstance(getattr(model, name, None), int):
            values[name] = getattr(model, name)
    if getattr(model, "knobs", None):
        values["knobs"] = {name: list(ends) for name, ends in model.knobs.items()}
    if hasattr(model, "quantizer"):
        quantizer = model.quantizer
        name = next(name for name, kind in QUANTIZERS.items() if isinstance(quantizer, kind))
        pre_emphasis = quantizer.pre_emphasis
        values["quantizer"] = {"name": name, "num_codes": quantizer.num_codes, "pre_emphasis": pre_emphasis}
    if settings:
        values["start_knobs"] = settings
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _part(inputs: Mapping[str, Tensor], span: slice) -> dict[str, Tensor]:
    return {key: x if key == KNOBS else x[..., span] for key, x in inputs.items()}


def _compare(model: nn.Module, session: Any, keys: Sequence[str]) -> None:
    """Raises WavedilError unless the file's outputs equal the model's, at another batch size and length than traced."""
    inputs = _example(model, batch=3, time=391)
    expected = model(*inputs.values())
    state = {key: value.numpy() for key, value in _start(model, inputs).items()} if keys else {}
    parts = []
    for span in (slice(0, 1), slice(1, 262), slice(262, 391)) if keys else (slice(0, 391),):
        feed = {key: x.numpy() for key, x in _part(inputs, span).items()}
        try:
            y, *new = session.run(None, feed | state)
        except Exception as error:  # onnxruntime's have no common class
            reason = " ".join(str(error).split())[:200]
            raise WavedilError(f"onnxruntime cannot run the exported {type(model).__name__}: {reason}") from None
        state = dict(zip(keys, new, strict=True))
        parts.append(torch.from_numpy(y))
    difference = (torch.cat(parts, dim=-1) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    if not difference <= TOLERANCE:
        raise WavedilError(
            f"onnxruntime's output differs from torch's by {difference:.1e} of the largest, more than {TOLERANCE:.0e}: "
            "nothing was written; try another version of torch, onnxscript or onnxruntime"
        )
