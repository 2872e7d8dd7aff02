"""The proof that a dense network says what its classifier says: node by node, in float64, with random weights."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from wavedil.errors import WavedilError
from wavedil.vision.dense.convert import DenseBackbone, DensePlan, output_graph, plan_dense
from wavedil.vision.dense.grid import Grid, Lost
from wavedil.vision.dense.trace import copy_with, layer_of

_TOLERANCE = 1e-6  # of the mean absolute value; rounding in float64 gives 1e-14, and 1e-7 in the deepest networks


@dataclass(frozen=True)
class DenseReport:
    """How the dense features differ from the classifier's.

    Attributes:
        exact: whether the largest difference at the classifier's cells is rounding.
        error: mean absolute difference there, relative to the mean absolute feature.
        layer: the first layer whose output differs; None where none does, or where ``dense`` is not by ``to_dense``.
        reason: why it differs.
        output_stride, stride: of the dense network and of the classifier.
        size: (height, width) of the image they were compared on.
    """

    exact: bool
    error: float
    layer: str | None
    reason: str | None
    output_stride: int
    stride: int
    size: tuple[int, int]

    def __str__(self) -> str:
        verdict = "exact" if self.exact else "not exact"
        text = f"{verdict} at output stride {self.output_stride}: relative error {self.error:.1e}"
        return text if self.layer is None else f"{text}; {self.layer} is the first to differ: {self.reason}"


def check_dense(
    classifier: nn.Module, dense: nn.Module, *, size: Sequence[int] | None = None, seed: int = 0
) -> DenseReport:
    """Compares the features of a classifier with those of its dense form, in float64.

    Copies of both get the same random weights and random statistics of batch norms, since fresh and trained weights
    can hide an error (layer scales of 1e-6, last norms of a block that are zero). Both run on a random image; the
    dense features at every r-th cell are compared with the classifier's, and so is every map on the way.

    Args:
        dense: made of ``classifier`` by ``to_dense``; or any module that gives its features at a smaller stride
            and names its parameters as the classifier does.
        size: (height, width) of the image. Default: 3 and 4 of the classifier's cells.
        seed: of weights and image.

    Raises:
        WavedilError: parameters of ``dense`` that the classifier does not have, or maps that do not fit.
    """
    ours = isinstance(dense, DenseBackbone)
    plan = (
        plan_dense(classifier, dense.output_stride, *dense.meta["dense"]["options"]) if ours else plan_dense(classifier)
    )
    features = plan.outputs[-1]
    stride = plan.grids.of[features].stride
    size = (3 * stride, 4 * stride) if size is None else tuple(size)
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, plan.trace.channels, *size, generator=generator, dtype=torch.float64)
    _check_trace(classifier, plan, image)

    reference = _float64_copy(fx.GraphModule(classifier, output_graph(plan)))
    _randomize(reference, generator, image)
    copied = _float64_copy(dense)
    _share_state(classifier, reference, copied)
    maps = {node.name: node for node in plan.trace.graph.nodes if isinstance(plan.grids.of.get(node), Grid)}
    with torch.no_grad():
        expected = _Recorder(reference, maps).record(image)
        if ours:
            found = _Recorder(copied, maps).record(image)
        else:
            forward = getattr(copied, plan.trace.method, copied)
            found = {features.name: _tensors(forward(image))[-1]}
    errors: dict[str, tuple[float, bool]] = {}
    hole = max(found[features.name].shape[-1] // expected[features.name].shape[-1], 1)
    for name in [name for name in maps if name in expected and name in found]:
        grid = plan.grids.of[maps[name]]
        axis = grid.axis_in(maps[name].meta["shape"])
        errors[name] = _error(expected[name], found[name], axis, grid.hole if ours else hole)
    error, exact = errors[features.name]
    first = next((maps[name] for name, (_, same) in errors.items() if not same), None)
    layer, reason = _explain(first, plan) if ours and first is not None else (None, None)
    output_stride = dense.output_stride if ours else stride // hole
    return DenseReport(exact, error, layer, reason, output_stride, stride, size)


def _check_trace(classifier: nn.Module, plan: DensePlan, image: Tensor) -> None:
    """Whether the graph computes exactly what the classifier does, with the classifier's own weights."""
    shell = copy_with(classifier, lambda tensor: tensor).eval()  # the same tensors, but a mode of its own
    like = next(shell.parameters())
    image = image.to(like.device, like.dtype)
    with torch.no_grad():
        try:
            expected = getattr(shell, plan.trace.method)(image.clone())
        except (RuntimeError, ValueError, AssertionError) as error:
            name = type(classifier).__name__
            raise WavedilError(f"{name} does not take an image of {tuple(image.shape)}: {error}") from None
        found = fx.Interpreter(shell, graph=plan.trace.graph).run(image.clone())
    for a, b in zip(_tensors(expected), _tensors(found), strict=True):
        if torch.allclose(a, b, rtol=1e-3, atol=1e-3 * a.abs().max().item(), equal_nan=True):
            continue
        raise WavedilError(
            f"{type(classifier).__name__} computes something else for {tuple(image.shape)} than what was traced: "
            "its path depends on values or sizes"
        )


def _float64_copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).cpu().double().eval()


def _randomize(module: nn.Module, generator: torch.Generator, image: Tensor) -> None:
    """Random weights, and random statistics of norms not far from what they meet, so that no signal dies or grows."""
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)

    def meet(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        per_channel = inputs[0].transpose(0, 1).flatten(1)
        mean, scale = per_channel.mean(1), per_channel.square().mean(1).sqrt() + 1e-3
        norm.running_mean.normal_(0, 0.1, generator=generator).mul_(scale).add_(mean)
        norm.running_var.uniform_(0.5, 1.5, generator=generator).mul_(scale.square())

    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(meet) for norm in norms if norm.running_mean is not None]
    with torch.no_grad():
        module(image.clone())
    for hook in hooks:
        hook.remove()


def _share_state(classifier: nn.Module, reference: nn.Module, dense: nn.Module) -> None:
    known, names = classifier.state_dict().keys(), dense.state_dict().keys()
    strange = [name for name in names if name not in known]
    if strange:
        raise WavedilError(
            f"dense has {strange[0]}, which {type(classifier).__name__} has not: expected the same names"
        )
    dense.load_state_dict(
        {name: value for name, value in reference.state_dict().items() if name in names}, strict=False
    )


class _Recorder(fx.Interpreter):
    """Keeps copies of some values, as they are before a later operation changes them in place."""

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


def _error(expected: Tensor, found: Tensor, axis: int, hole: int) -> tuple[float, bool]:
    """Mean difference relative to the mean of what is expected, and whether the largest is rounding."""
    part = [slice(None)] * expected.ndim
    for a in (axis, axis + 1):
        part[a] = slice(0, (expected.shape[a] - 1) * hole + 1, hole)
    cells = found[tuple(part)]
    if cells.shape != expected.shape:
        raise WavedilError(f"dense features {tuple(found.shape)} do not hold the classifier's {tuple(expected.shape)}")
    difference, level = (cells - expected).abs(), expected.abs().mean()
    return (difference.mean() / level).item(), bool(difference.max() <= _TOLERANCE * level)


def _explain(node: fx.Node, plan: DensePlan) -> tuple[str, str]:
    """The layer of the first node that differs, and why. What it computes from is either the same or no map."""
    of = plan.grids.of
    lost = [source for source in node.all_input_nodes if isinstance(of.get(source), Lost)]
    if lost:
        origin = lost[0]
        while not any(isinstance(of.get(source), Grid) for source in origin.all_input_nodes):
            origin = next(source for source in origin.all_input_nodes if isinstance(of.get(source), Lost))
        return layer_of(node), f"it takes in what {layer_of(origin)} makes of the whole map"
    sources = [of[source] for source in node.all_input_nodes if isinstance(of.get(source), Grid)]
    if of[node].whole and not any(source.whole for source in sources) or plan.grids.sees_all(node):
        return layer_of(node), "it depends on the whole map"
    return layer_of(node), "its input is the same, so it treats positions differently or sees the border"


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
