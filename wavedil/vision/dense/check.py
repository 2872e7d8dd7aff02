"""Compares a dense network with its classifier, node by node, in float64, with random weights."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, fx, nn

from wavedil.core.measured_field import float64_copy
from wavedil.core.padded_conv import axes_value
from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError
from wavedil.ops.memory import check_memory
from wavedil.vision.dense.convert import ConversionPlan, DenseBackbone, extract_outputs, plan_conversion
from wavedil.vision.dense.grid import Grid, NonMap
from wavedil.vision.dense.trace import copy_module, describe_node

Pixels = Annotated[int, Range(1, 2**31)]
Seed = Annotated[int, Range(0, 2**63 - 1)]

_TOLERANCE = 1e-6  # of the mean absolute value; float64 rounding gives 1e-14, in the deepest networks 1e-7


@dataclass(frozen=True)
class DenseReport:
    """Result of :func:`check_dense`.

    Attributes:
        exact: whether the differences at the classifier's cells are only rounding.
        error: mean absolute difference at these cells, relative to the mean absolute feature.
        layer: the first layer whose output differs; None if there is none, or if ``dense`` is not from ``to_dense``.
        reason: why it differs.
        output_stride, stride: strides of the dense network and of the classifier, one or one for each axis.
        size: (height, width) of the test image.
    """

    exact: bool
    error: float
    layer: str | None
    reason: str | None
    output_stride: int | tuple[int, int]
    stride: int | tuple[int, int]
    size: tuple[int, int]

    def __str__(self) -> str:
        verdict = "exact" if self.exact else "not exact"
        text = f"{verdict} at output stride {self.output_stride}: relative error {self.error:.1e}"
        return text if self.layer is None else f"{text}; first layer that differs: {self.layer}, since {self.reason}"


@checked
def check_dense(
    classifier: nn.Module, dense: nn.Module, *, size: tuple[Pixels, Pixels] | None = None, seed: Seed = 0
) -> DenseReport:
    """Compares the features of a classifier with those of its dense form, in float64.

    Copies of both get the same random weights and random batch norm statistics, since initial and trained weights can
    hide errors (layer scales of 1e-6, or the last norm of a block with weight 0). Both run on a random image. The dense
    features at every r-th cell are compared with the classifier's, and so are all intermediate feature maps.

    Args:
        dense: result of ``to_dense(classifier, ...)``; or any module with the same parameter names that returns the
            features of the classifier at a smaller stride.
        size: (height, width) of the image. Default: 3 and 4 cells of the classifier.
        seed: seed of the weights and the image.

    Raises:
        WavedilError: ``dense`` has parameters that the classifier does not have, or feature maps of another size.
    """
    ours = isinstance(dense, DenseBackbone)
    options = (dense.output_stride, *dense.meta["dense"]["options"]) if ours else ()
    plan = plan_conversion(classifier, *options)
    features = plan.outputs[-1]
    stride = plan.analysis.grids[features].stride
    size = (3 * stride[0], 4 * stride[1]) if size is None else tuple(size)
    generator = torch.Generator().manual_seed(seed)
    check_memory(256 * size[0] * size[1], f"size is {size}", "use a smaller image")  # far below that of the features
    image = torch.randn(1, plan.trace.channels, *size, generator=generator, dtype=torch.float64)
    _check_trace(classifier, plan, image)

    reference = float64_copy(fx.GraphModule(classifier, extract_outputs(plan))).cpu()
    _randomize(reference, generator, image)
    dense64 = float64_copy(dense).cpu()
    _load_weights(classifier, reference, dense64)
    maps = {node.name: node for node in plan.trace.graph.nodes if isinstance(plan.analysis.grids.get(node), Grid)}
    with torch.no_grad():
        expected = _Recorder(reference, maps).record(image)
        if ours:
            found = _Recorder(dense64, maps).record(image)
        else:
            forward = getattr(dense64, plan.trace.method, dense64)
            found = {features.name: _tensors(forward(image))[-1]}
    errors: dict[str, tuple[float, bool]] = {}
    shapes = found[features.name].shape[-2:], expected[features.name].shape[-2:]
    spacing = tuple(max(dense // cells, 1) for dense, cells in zip(*shapes, strict=True))
    for name in [name for name in maps if name in expected and name in found]:
        grid = plan.analysis.grids[maps[name]]
        axis = grid.find_axis(maps[name].meta["shape"])
        errors[name] = _compare(expected[name], found[name], axis, grid.spacing if ours else spacing)
    error, exact = errors[features.name]
    first = next((maps[name] for name, (_, same) in errors.items() if not same), None)
    layer, reason = _explain(first, plan) if ours and first is not None else (None, None)
    output_stride = tuple(full // apart for full, apart in zip(stride, spacing, strict=True))
    output_stride = dense.output_stride if ours else axes_value(output_stride)
    return DenseReport(exact, error, layer, reason, output_stride, axes_value(stride), size)


def _check_trace(classifier: nn.Module, plan: ConversionPlan, image: Tensor) -> None:
    """Raises WavedilError unless the traced graph computes the same as the classifier, with its weights."""
    model = copy_module(classifier, lambda tensor: tensor).eval()  # shares the tensors, but not the training mode
    like = next(model.parameters())
    image = image.to(like.device, like.dtype)
    with torch.no_grad():
        try:
            expected = getattr(model, plan.trace.method)(image.clone())
        except (RuntimeError, ValueError, AssertionError) as error:
            name = type(classifier).__name__
            raise WavedilError(f"size: {name} does not accept an image of {tuple(image.shape)}: {error}") from None
        found = fx.Interpreter(model, graph=plan.trace.graph).run(image.clone())
    for a, b in zip(_tensors(expected), _tensors(found), strict=True):
        if torch.allclose(a, b, rtol=1e-3, atol=1e-3 * a.abs().max().item(), equal_nan=True):
            continue
        raise WavedilError(
            f"{type(classifier).__name__} computes something else for an image of {tuple(image.shape)} than its trace: "
            "expected a network without control flow that depends on values or sizes"
        )


def _randomize(module: nn.Module, generator: torch.Generator, image: Tensor) -> None:
    """Sets random weights, and batch norm statistics close to those of the inputs to keep the scale of activations."""
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)

    def set_statistics(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        per_channel = inputs[0].transpose(0, 1).flatten(1)
        mean, scale = per_channel.mean(1), per_channel.square().mean(1).sqrt() + 1e-3
        norm.running_mean.normal_(0, 0.1, generator=generator).mul_(scale).add_(mean)
        norm.running_var.uniform_(0.5, 1.5, generator=generator).mul_(scale.square())

    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms if norm.running_mean is not None]
    with torch.no_grad():
        module(image.clone())
    for hook in hooks:
        hook.remove()


def _load_weights(classifier: nn.Module, reference: nn.Module, dense: nn.Module) -> None:
    """Loads the weights of ``reference`` into ``dense``."""
    known, names = classifier.state_dict().keys(), dense.state_dict().keys()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise WavedilError(
            f"dense has a tensor {unknown[0]}: expected only tensor names of {type(classifier).__name__}"
        )
    dense.load_state_dict(
        {name: value for name, value in reference.state_dict().items() if name in names}, strict=False
    )


class _Recorder(fx.Interpreter):
    """Stores copies of the values of some nodes, before later operations change them in place."""

    def __init__(self, module: fx.GraphModule, names: Collection[str]):
        super().__init__(module)
        self.extra_traceback = False
        self.names = names
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names and isinstance(value, Tensor):
            self.values[n.name] = value.clone()
        return value

    def record(self, image: Tensor) -> dict[str, Tensor]:
        self.run(image)
        return self.values


def _compare(expected: Tensor, found: Tensor, axis: int, spacing: tuple[int, int]) -> tuple[float, bool]:
    """Mean absolute difference relative to the mean of ``expected``, and whether the largest difference is rounding."""
    part = [slice(None)] * expected.ndim
    for a, apart in zip((axis, axis + 1), spacing, strict=True):
        part[a] = slice(0, (expected.shape[a] - 1) * apart + 1, apart)
    cells = found[tuple(part)] if found.ndim == expected.ndim else found
    if cells.shape != expected.shape:
        raise WavedilError(
            f"dense has a feature map of shape {tuple(found.shape)}: expected cells for the classifier's "
            f"{tuple(expected.shape)}"
        )
    difference, level = (cells - expected).abs(), expected.abs().mean()
    return (difference.mean() / level).item(), bool(difference.max() <= _TOLERANCE * level)


def _explain(node: fx.Node, plan: ConversionPlan) -> tuple[str, str]:
    """The layer of the first node that differs, and the reason. Its inputs are equal maps, or not maps."""
    grids = plan.analysis.grids
    non_maps = [source for source in node.all_input_nodes if isinstance(grids.get(source), NonMap)]
    if non_maps:
        origin = non_maps[0]
        while not any(isinstance(grids.get(source), Grid) for source in origin.all_input_nodes):
            origin = next(source for source in origin.all_input_nodes if isinstance(grids.get(source), NonMap))
        return describe_node(node), f"it uses a value that {describe_node(origin)} computes from the full map"
    inputs = [grids[source] for source in node.all_input_nodes if isinstance(grids.get(source), Grid)]
    if grids[node].sees_image and not any(grid.sees_image for grid in inputs) or plan.analysis.is_global(node):
        return describe_node(node), "it depends on the full map"
    return describe_node(node), "its inputs are equal, so it depends on the position or on the border"


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in a nested output."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
