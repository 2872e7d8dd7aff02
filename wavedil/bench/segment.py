"""Segmentation networks: wavedil, torchvision's DeepLab v3, segmentation_models.pytorch's DeepLab v3 and PSPNet."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedil.bench.runner import DTYPES, Candidate, measure
from wavedil.errors import WavedilError
from wavedil.extras import install
from wavedil.ops.memory import keep_freed_memory


@dataclass
class _Network:
    """A network to time; ``make`` is None if its package is not installed."""

    name: str
    make: Callable[[], nn.Module] | None
    channels_last: bool = False


def bench_segment(
    device: str,
    *,
    size: int = 160,
    batch: int = 2,
    num_classes: int = 21,
    precisions: tuple[str, ...] | None = None,
    rounds: int = 5,
) -> dict[str, Any]:
    """Times ResNet-50 at stride 8 with each head, and its first half with pyramid pooling, as in smp's PSPNet.

    Rows "inference" compute the scores of every pixel of one image. Rows "training" run forward, cross entropy,
    backward and SGD on ``batch`` images. bf16 uses autocast; by default it is omitted on CPUs, where a step takes
    minutes without hardware support. wavedil's networks are in channels_last, as in ``wavedil train``; torchvision's is
    measured in both layouts. All weights are random.
    """
    if device == "cpu":
        keep_freed_memory()
    precisions = precisions or (("fp32",) if device == "cpu" else tuple(DTYPES))
    try:
        from torchvision.models import resnet50
    except ImportError:
        raise WavedilError(f"bench segment needs torchvision, which is missing: {install('torchvision')}") from None
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator).to(device)
    labels = torch.randint(0, num_classes, (batch, size, size), generator=generator).to(device)
    groups = {"DeepLab v3": _deeplabs(resnet50, num_classes), "PSP": _psps(resnet50, num_classes)}
    candidates = []
    for group, networks in groups.items():
        for work, precision in product(("inference", "training"), precisions):
            kind = f"{group} {work} {precision}"
            for network in networks:
                call = None
                if network.make is not None:
                    # A separate copy for each row: training changes weights, which could change the inference time.
                    made, inputs = network.make().to(device), images
                    if network.channels_last:
                        made = made.to(memory_format=torch.channels_last)
                        inputs = images.contiguous(memory_format=torch.channels_last)
                    autocast = torch.autocast(device.split(":")[0], DTYPES[precision], enabled=precision != "fp32")
                    if work == "inference":
                        call = _inference(made, inputs, autocast)
                    else:
                        call = _step(made, inputs, labels, autocast)
                candidates.append(Candidate(f"{kind}, {network.name}", call, kind))
    notes = [f"{size} x {size} pixels, {num_classes} classes; one image for inference, {batch} for training"]
    notes.append(_agreement(resnet50, images[:1].cpu(), num_classes))
    return {"rows": measure(candidates, rounds=rounds, device=device, unit="ms", warm=1), "notes": notes}


def _deeplabs(resnet50: Callable[[], nn.Module], num_classes: int) -> list[_Network]:
    from wavedil.vision import ASPP, ContextModule, Conv1x1Head

    smp = _smp()
    theirs = None if smp is None else lambda: smp.DeepLabV3("resnet50", encoder_weights=None, classes=num_classes)

    def ours(variant: str | None = None) -> Callable[[], nn.Module]:
        if variant is None:
            return lambda: _segmenter(resnet50(), ASPP(2048, num_classes), None, num_classes)
        return lambda: _segmenter(
            resnet50(), Conv1x1Head(2048, num_classes), ContextModule(num_classes, variant), num_classes
        )

    return [
        _Network("torchvision", lambda: _torchvision(num_classes)),
        _Network("torchvision in channels_last", lambda: _torchvision(num_classes), channels_last=True),
        _Network("segmentation_models.pytorch", theirs),
        _Network("ours", ours(), channels_last=True),
        _Network("ours, basic context", ours("basic"), channels_last=True),
        _Network("ours, large context", ours("large"), channels_last=True),
    ]


def _psps(resnet50: Callable[[], nn.Module], num_classes: int) -> list[_Network]:
    from wavedil.vision import PyramidPooling, Segmenter

    smp = _smp()
    theirs = None if smp is None else lambda: smp.PSPNet("resnet50", encoder_weights=None, classes=num_classes)

    def ours() -> nn.Module:
        head = PyramidPooling(512, num_classes, kernel_size=1, dropout=0.2, align_corners=True)
        return Segmenter(_Half(resnet50()), head, num_classes=num_classes, align="center")

    return [_Network("segmentation_models.pytorch", theirs), _Network("ours", ours, channels_last=True)]


class _Half(nn.Sequential):
    """The layers of ResNet-50 up to stride 8."""

    channels, output_stride, receptive_field = 512, 8, 99

    def __init__(self, resnet: nn.Module):
        super().__init__(*list(resnet.children())[:6])


class _Scores(nn.Module):
    """Takes the scores from the dict that torchvision's networks return."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)["out"]


def _torchvision(num_classes: int) -> nn.Module:
    from torchvision.models.segmentation import deeplabv3_resnet50

    return _Scores(deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=False))


def _segmenter(resnet: nn.Module, head: nn.Module, context: nn.Module | None, num_classes: int) -> nn.Module:
    from wavedil.vision import Segmenter
    from wavedil.vision.dense import to_dense

    # align="center", as in torchvision
    return Segmenter(to_dense(resnet, 8), head, context, num_classes=num_classes, align="center")


def _smp() -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            import segmentation_models_pytorch
    except ImportError:
        return None
    return segmentation_models_pytorch


def _inference(network: nn.Module, images: Tensor, autocast: torch.autocast) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode(), autocast:
            return network.eval()(images[:1])

    return call


def _step(network: nn.Module, images: Tensor, labels: Tensor, autocast: torch.autocast) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)

    def call() -> None:
        with autocast:
            scores = network.train()(images)
        optimizer.zero_grad()
        F.cross_entropy(scores.float(), labels).backward()
        optimizer.step()

    return call


def _agreement(resnet50: Callable[[], nn.Module], image: Tensor, num_classes: int) -> str:
    """A sentence on how much wavedil's scores differ from torchvision's with the same weights."""
    from wavedil.vision import ASPP

    theirs = _torchvision(num_classes).eval()
    ours = _segmenter(resnet50(), ASPP(2048, num_classes), None, num_classes).eval()
    ours.backbone.load_state_dict(theirs.network.backbone.state_dict())
    ours.head.load_state_dict(theirs.network.classifier.state_dict())
    with torch.inference_mode():
        expected = theirs((image - ours.mean) / ours.std)
        difference = ((ours(image) - expected).abs().max() / expected.abs().max()).item()
    return f"with the same weights, ours and torchvision's DeepLab v3 differ by {difference:.1e} of the largest score"
