"""The samplers that ``wavedil bench sample`` times: wavedil's engines and other packages."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.audio import Features, NearestUpsampling, WaveNet
from wavedil.audio.generation.engines import session_class
from wavedil.audio.generation.plan import GenerationPlan
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.bench.runner import torch_threads

#: Options of a WaveNet whose input and output are 16-bit amplitudes.
LINEAR_16_BIT = {"input": "scalar", "quantizer": "linear", "num_codes": 65536}
_HOP = 200  # hop length of features in samples: 80 frames per second at 16 kHz
#: A context that ignores warnings, since old packages use deprecated parts of torch.
_quiet = partial(warnings.catch_warnings, action="ignore")


@dataclass(frozen=True)
class Size:
    """The size of a WaveNet to sample from: kernel size 2, 256 codes, as many hidden as residual channels."""

    name: str
    channels: int
    skip_channels: int
    dilations: str
    features: int = 0  # channels of the local features
    distribution: str = "categorical"
    components: int = 0  # of a mixture
    sparsity: float = 0  # share of zeros, in blocks of 16 outputs x 4 inputs

    def model(self, device: str) -> WaveNet:
        torch.manual_seed(0)
        condition = NearestUpsampling(Features(self.features, _HOP)) if self.features else None
        options = {"condition": condition}
        if self.components:
            options |= {"distribution": self.distribution, "components": self.components, **LINEAR_16_BIT}
        model = WaveNet(self.channels, self.skip_channels, self.dilations, **options)
        if self.sparsity:
            prune_at_random(model.stack, self.sparsity)
        return model.to(device).eval()


@torch.no_grad()
def prune_at_random(stack: nn.Module, sparsity: float) -> None:
    """Sets a share of the blocks of all weights of a stack to zero."""
    for weight in (each for each in stack.parameters() if each.ndim > 1):
        outputs, inputs, taps = weight.shape
        keep = torch.rand(-(-outputs // 16), -(-inputs // 4), taps) >= sparsity
        weight *= keep.repeat_interleave(16, 0).repeat_interleave(4, 1)[:outputs, :inputs]


def multiply_adds(plan: GenerationPlan) -> int:
    """Multiply-adds of the products for one sample, without those of weights that are zero."""
    weights = [plan.skip_weight, *(weight for weight, _ in plan.head)]
    for layer in plan.layers:
        weights += [layer.weight, layer.condition, layer.residual]
    return sum(int(weight.count_nonzero()) for weight in weights if weight is not None)


def ours(
    size: Size, engine: str, batch: int, steps: int, *, precision: str = "fp32", threads: int = 1, device: str = "cpu"
) -> Callable[[], Tensor]:
    """Samples ``steps`` more steps of a batch of streams with an engine in each call.

    torch uses one thread, the engine ``threads``.
    """
    model = size.model(device)
    session = session_class(engine)(model.plan(), model.start(batch), precision=precision, threads=threads)
    uniforms = Uniforms(0, batch).draw(steps).to(device)
    frames = torch.randn(batch, size.features, -(-steps // _HOP)) if size.features else None
    features = model.conditioning(frames, num=batch).upsampled_features(0, steps)
    return _single_threaded(lambda: session.sample(uniforms, features))


def wavenet_vocoder_network(
    channels: int, skip_channels: int, dilations: tuple[int, ...], features: int = 0
) -> nn.Module | None:
    """The same architecture in the package wavenet-vocoder, which takes codes one-hot; None if it is not installed."""
    with _quiet():
        try:
            from wavenet_vocoder import WaveNet as Peer
        except ImportError:
            return None
        return Peer(
            out_channels=256,
            layers=len(dilations),
            stacks=dilations.count(1),
            residual_channels=channels,
            gate_channels=2 * channels,
            skip_out_channels=skip_channels,
            kernel_size=2,
            dropout=0,
            cin_channels=features or -1,
            gin_channels=-1,
        )


def wavenet_vocoder(size: Size, steps: int) -> Callable[[], Tensor] | None:
    """Samples one stream with wavenet-vocoder, after ``make_generation_fast_()``; None if it is not installed."""
    dilations = size.model("cpu").dilations
    model = wavenet_vocoder_network(size.channels, size.skip_channels, dilations, size.features)
    if model is None:
        return None
    with _quiet():
        model.eval().make_generation_fast_()
    features = torch.randn(1, size.features, steps) if size.features else None
    return _single_threaded(lambda: model.incremental_forward(c=features, T=steps))


def wavernn(batch: int, steps: int) -> Callable[[], Any] | None:
    """torchaudio's WaveRNN with 512 units: another model, of 4.3 M parameters. None if torchaudio does not import."""
    try:
        with _quiet():
            from torchaudio.models import WaveRNN
    except (ImportError, OSError, RuntimeError):  # the last two: torchaudio was built for another torch
        return None
    model = WaveRNN(upsample_scales=[5, 5, 8], n_classes=256, hop_length=200, n_freq=80).eval()
    frames = torch.randn(batch, 80, steps // 200)
    return _single_threaded(lambda: model.infer(frames))


def _single_threaded(call: Callable[[], Any]) -> Callable[[], Any]:
    """Runs a function on one torch thread, without gradients: in single steps, threads only wait for each other."""

    def single_threaded() -> Any:
        with torch_threads(1), torch.no_grad(), _quiet():
            return call()

    return single_threaded
