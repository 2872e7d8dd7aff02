"""What `wavedil bench sample` compares: our engines, and the samplers of other packages, each as a call to time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wavedil.audio import Features, NearestUpsampling, WaveNet
from wavedil.audio.generation.engines import session_class
from wavedil.audio.generation.plan import GenerationPlan
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.bench.runner import threads_set

_HOP = 200  # samples that a frame of features lasts: 80 frames a second


@dataclass(frozen=True)
class Size:
    """A WaveNet to sample from: kernel 2, 256 codes, gates as wide as the residual stream."""

    name: str
    channels: int
    skip_channels: int
    dilations: str
    features: int = 0  # channels of local conditioning
    distribution: str = "categorical"
    components: int = 0  # of a mixture

    def model(self, device: str) -> WaveNet:
        torch.manual_seed(0)
        condition = NearestUpsampling(Features(self.features, _HOP)) if self.features else None
        options = {"condition": condition}
        if self.components:
            options |= {"distribution": self.distribution, "components": self.components}
            options |= {"input": "scalar", "quantizer": "linear", "num_codes": 65536}
        return WaveNet(self.channels, self.skip_channels, self.dilations, **options).to(device).eval()


def multiply_adds(plan: GenerationPlan) -> int:
    """Of the products for one sample."""
    layers = [(layer.weight, layer.condition, layer.residual) for layer in plan.layers]
    weights = [
        plan.skip_weight,
        *(weight for weight, _ in plan.head),
        *(weight for layer in layers for weight in layer),
    ]
    return sum(weight.numel() for weight in weights if weight is not None)


def ours(
    size: Size, engine: str, batch: int, steps: int, *, precision: str = "fp32", threads: int = 1, device: str = "cpu"
) -> Callable[[], Tensor]:
    """The next ``steps`` of a batch of streams that go on from call to call. Our own threads, and one of torch's."""
    model = size.model(device)
    session = session_class(engine)(model.plan(), model.start(batch), precision=precision, threads=threads)
    uniforms = Uniforms(0, batch).draw(steps).to(device)
    frames = torch.randn(batch, size.features, -(-steps // _HOP)) if size.features else None
    features = model.conditioning(frames, num=batch).features(0, steps)
    return _alone(lambda: session.sample(uniforms, features))


def wavenet_vocoder(size: Size, steps: int) -> Callable[[], Tensor] | None:
    """PyPI's wavenet-vocoder after `make_generation_fast_()`, the same architecture; None where it is not installed.

    It takes codes one-hot, and samples one stream at a time.
    """
    try:
        with _quiet():
            from wavenet_vocoder import WaveNet as Peer
    except ImportError:
        return None
    dilations = size.model("cpu").dilations
    with _quiet():
        model = Peer(
            out_channels=256,
            layers=len(dilations),
            stacks=dilations.count(1),
            residual_channels=size.channels,
            gate_channels=2 * size.channels,
            skip_out_channels=size.skip_channels,
            kernel_size=2,
            dropout=0,
            cin_channels=size.features or -1,
            gin_channels=-1,
        ).eval()
        model.make_generation_fast_()
    features = torch.randn(1, size.features, steps) if size.features else None
    return _alone(lambda: model.incremental_forward(c=features, T=steps))


def wavernn(batch: int, steps: int) -> Callable[[], Any] | None:
    """torchaudio's WaveRNN of 512 units: another model, of 4.3 M parameters. None where torchaudio does not import."""
    try:
        with _quiet():
            from torchaudio.models import WaveRNN
    except (ImportError, OSError, RuntimeError):  # the last two: torchaudio beside a torch that it was not built for
        return None
    model = WaveRNN(upsample_scales=[5, 5, 8], n_classes=256, hop_length=200, n_freq=80).eval()
    frames = torch.randn(batch, 80, steps // 200)
    return _alone(lambda: model.infer(frames))


def _alone(call: Callable[[], Any]) -> Callable[[], Any]:
    """On one thread of torch's, and without gradients: step by step, more threads only wait for each other."""

    def alone() -> Any:
        with threads_set(1), torch.no_grad(), _quiet():
            return call()

    return alone


@contextmanager
def _quiet():
    """Old packages use what torch has since deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
