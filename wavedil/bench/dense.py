"""Compares classifiers that wavedil and other packages made dense with the original classifiers.

The error is the mean absolute difference at the classifier's cells, relative to the mean absolute feature, in float64
with random weights and statistics; see :func:`wavedil.vision.check_dense`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from wavedil.bench.runner import missing_row, summary_row
from wavedil.errors import WavedilError
from wavedil.vision.dense import DenseReport, check_dense, to_dense

_NAMES = (
    ("torchvision", "resnet18 resnet50 regnet_x_400mf vgg16_bn densenet121 mobilenet_v2 mnasnet0_5"),
    ("torchvision", "shufflenet_v2_x0_5 googlenet inception_v3 convnext_tiny"),
    ("timm", "resnet18d resnet50d resnext50_32x4d res2net50_26w_4s resnetblur18 regnetx_002 efficientnet_lite0"),
    ("timm", "tf_efficientnet_lite0 mobilenetv4_conv_small convnext_atto xception41 densenet121 vgg16_bn dla34 dpn48b"),
    ("timm", "hgnetv2_b0"),
    ("torchvision", "efficientnet_b0 mobilenet_v3_small"),
    ("timm", "mobilenetv3_small_100 resnest14d skresnet18 regnety_002 ghostnet_050 convnextv2_atto"),
)
NETWORKS = tuple(f"{package} {name}" for package, names in _NAMES for name in names.split())
_STRIDES = (16, 8)


def classifier(network: str) -> nn.Module:
    """A network with random weights by package and name, e.g. ``"torchvision resnet18"`` or ``"timm resnet18d"``."""
    package, name = network.split()
    if package == "timm":
        import timm

        return timm.create_model(name).eval()
    import torchvision

    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **quick).eval()


def bench_dense(device: str, *, networks: Sequence[str] = NETWORKS) -> dict[str, Any]:
    """One row for each network, stride and package, with the error as ``median``; the notes are a Markdown table.

    Runs on the CPU, in float64.
    """
    rows: list[dict[str, Any]] = []
    head = [f"{package}, stride {stride}" for package in ("wavedil", "other packages") for stride in _STRIDES]
    table = [f"| network | {' | '.join(head)} | first layer that differs |", "|---|" + "---|" * (len(head) + 1)]
    for network in networks:
        model = classifier(network)
        ours = [check_dense(model, to_dense(model, stride)) for stride in _STRIDES]
        others = [_others(network, model, stride) for stride in _STRIDES]
        for stride, report, peers in zip(_STRIDES, ours, others, strict=True):
            reports = {"wavedil": report} | peers
            rows += [_row(f"{network}, stride {stride}, {package}", result) for package, result in reports.items()]
        cells = [_cell(report) for report in ours]
        cells += [
            "; ".join(f"{package} {_cell(result)}" for package, result in peers.items()) or "–" for peers in others
        ]
        table.append(f"| {network} | {' | '.join(cells)} | {_reason(ours[-1])} |")
    return {"rows": rows, "notes": table}


def _row(name: str, result: DenseReport | str) -> dict[str, Any]:
    if isinstance(result, str):
        return missing_row(name, "relative error", result)
    return summary_row(name, "relative error", [result.error]) | {"exact": result.exact, "layer": result.layer}


def _cell(result: DenseReport | str) -> str:
    return result if isinstance(result, str) else "exact" if result.exact else f"{result.error:.2g}"


def _reason(report: DenseReport) -> str:
    return "" if report.layer is None else f"{report.layer}: {report.reason}"


def _others(network: str, model: nn.Module, stride: int) -> dict[str, DenseReport | str]:
    """The reports of the packages that have this network and an option to dilate it, or why there is none."""
    family, name = network.split()
    builders = {"torchvision": {"torchvision": _torchvision, "smp": _smp}, "timm": {"timm": _timm}}[family]
    reports: dict[str, DenseReport | str] = {}
    for package, build in builders.items():
        try:
            dense = build(name, stride)
        except ImportError:
            continue  # not installed
        except (AssertionError, NotImplementedError, TypeError, ValueError):
            reports[package] = "error"
            continue
        if dense is None:
            continue
        try:
            reports[package] = check_dense(model, dense)
        except WavedilError as error:
            reports[package] = f"differs: {error}"
    return reports


def _torchvision(name: str, stride: int) -> nn.Module | None:
    import torchvision
    from torchvision.models._utils import IntermediateLayerGetter

    get: Callable[..., nn.Module] = torchvision.models.get_model
    if name.startswith(("resnet", "resnext")):
        dilated = get(name, weights=None, replace_stride_with_dilation=[False, stride < 16, True])
        return IntermediateLayerGetter(dilated, {"layer4": "out"})
    if name.startswith("mobilenet_v3") and stride == 16:
        return IntermediateLayerGetter(get(name, weights=None, dilated=True), {"features": "out"})
    return None


def _smp(name: str, stride: int) -> nn.Module | None:
    from segmentation_models_pytorch.encoders import encoders, get_encoder

    return get_encoder(name, weights=None, output_stride=stride) if name in encoders else None


def _timm(name: str, stride: int) -> nn.Module:
    import timm

    return timm.create_model(name, output_stride=stride)
