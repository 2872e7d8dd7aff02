"""Parallel dilated convolutions with batch norm in training, which merge into one convolution."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.batch_norm import BATCH_NORMS
from wavedil.core.conv import DilatedConv
from wavedil.core.learned import LearnedDilation
from wavedil.core.padded_conv import PaddedConv, check_taps, positions_before, tap_offsets
from wavedil.core.receptive_field import PerAxis, per_axis
from wavedil.core.schema import Dimensions, Width, checked
from wavedil.errors import WavedilError, shown
from wavedil.ops.dilated_conv.taps import tap_conv


class MergeableDilations(PaddedConv):
    """Sum of parallel dilated convolutions, each with batch norm; :meth:`merge` merges them into one after training.

    A drop-in replacement for :class:`DilatedConv`, as the dilated reparameterization block of UniRepLKNet (Ding et al.
    2023, arXiv 2311.15599, section 3.2) and the small kernel of RepLKNet (arXiv 2203.06717), in 1 to 3 dimensions,
    causal or not.
    The merged convolution has a tap wherever a branch has one, and equals the branches in evaluation mode.

    Args:
        ndim, in_channels, out_channels, stride, padding, pad_mode, groups: as in :class:`DilatedConv`. The branches are
            aligned at the position of the output: at their last tap if causal, else at their center.
        kernel_size, dilation: of the first branch.
        branches: kernel size and dilation of each other branch, e.g. ``[(3, 2), (5, 1)]``; an int, or one per axis.
            Default: one branch with the same kernel and half the dilation, none if the dilation is 1.
        bias: must be True, since the batch norms have biases.
        merged: create the layer in merged form, e.g. to load merged weights.

    Shapes: merged, ``weight`` is ``(out_channels, in_channels / groups, taps)`` and ``bias`` ``(out_channels,)``.

    Raises:
        WavedilError: as :class:`DilatedConv`, or branches that are not pairs.
    """

    @checked
    def __init__(
        self,
        ndim: Dimensions,
        in_channels: Width,
        out_channels: Width,
        kernel_size: PerAxis,
        *,
        dilation: PerAxis = 1,
        branches: Sequence[Sequence[PerAxis]] | None = None,
        stride: PerAxis = 1,
        padding: str | Sequence[str] = "same",
        pad_mode: str = "zeros",
        groups: Width = 1,
        bias: bool = True,
        merged: bool = False,
    ):
        super().__init__(
            ndim, in_channels, out_channels, stride=stride, padding=padding, pad_mode=pad_mode, groups=groups
        )
        if not bias:
            raise WavedilError("bias is False: expected True, since the batch norms of the branches make a bias")
        first = per_axis("kernel_size", kernel_size, ndim), per_axis("dilation", dilation, ndim)
        if branches is None:
            halves = tuple(max(1, d // 2) for d in first[1])
            branches = [] if halves == first[1] else [(first[0], halves)]
        pairs = [first]
        for pair in branches:
            if len(pair) != 2:
                raise WavedilError(f"branches has {shown(pair)}: expected pairs of kernel size and dilation")
            pairs.append(tuple(per_axis("branches", value, ndim) for value in pair))
        spans = [tuple((k - 1) * d for k, d in zip(*pair, strict=True)) for pair in pairs]
        self.span = tuple(map(max, zip(*spans, strict=True)))
        self._starts = [
            tuple(
                positions_before(name, whole) - positions_before(name, own)
                for name, whole, own in zip(self.padding, self.span, each, strict=True)
            )
            for each in spans
        ]
        check_taps("kernel_size", sum(math.prod(kernel) for kernel, _ in pairs))
        places = [tap_offsets(*pair, start) for pair, start in zip(pairs, self._starts, strict=True)]
        self.offsets = sorted(set(itertools.chain(*places)))
        numbers = {place: number for number, place in enumerate(self.offsets)}
        self._indices = [[numbers[place] for place in each] for each in places]
        options = {"stride": stride, "padding": "valid", "groups": groups, "bias": False}
        convs = (
            DilatedConv(ndim, in_channels, out_channels, k, dilation=d, **options) for k, d in ([] if merged else pairs)
        )
        self.branches = nn.ModuleList(nn.Sequential(conv, BATCH_NORMS[ndim - 1](out_channels)) for conv in convs)
        self._add_parameters(merged)
        if merged:
            bound = 1 / self.weight[0].numel() ** 0.5
            nn.init.uniform_(self.weight, -bound, bound)
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def merged(self) -> bool:
        """Whether this is one convolution; see :meth:`merge`."""
        return self.weight is not None

    def taps(self) -> tuple[Tensor, list[tuple[int, ...]]]:
        """Weights ``(out_channels, in_channels / groups, taps)`` and offsets in ``span`` of the merged convolution.

        Raises:
            WavedilError: the branches are not merged.
        """
        if not self.merged:
            raise WavedilError("branches are not merged: call fold_dilations(model) of wavedil.core first")
        return self.weight, self.offsets

    @torch.inference_mode(False)  # the result can be trained
    @torch.no_grad()
    def merge(self) -> "MergeableDilations":
        """Replaces the branches by one convolution with their weights and running statistics, in place; returns self.

        The state of :meth:`step` stays valid.
        """
        if self.merged:
            return self
        weight = bias = 0.0
        for (conv, norm), index in zip(self.branches, self._indices, strict=True):
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            taps = conv.weight.double().flatten(2) * scale[:, None, None]
            empty = taps.new_zeros(*taps.shape[:2], len(self.offsets))
            weight = weight + empty.index_add(2, torch.tensor(index, device=taps.device), taps)
            bias = bias + norm.bias.double() - norm.running_mean.double() * scale
        like = self.branches[0][0].weight
        self.branches = nn.ModuleList()
        self._add_parameters(True, like)
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        return self

    def _add_parameters(self, merged: bool, like: Tensor | None = None) -> None:
        shape = self.out_channels, self.in_channels // self.groups, len(self.offsets)
        like = torch.empty(0) if like is None else like
        self.weight = nn.Parameter(like.new_empty(shape)) if merged else None
        self.bias = nn.Parameter(like.new_empty(self.out_channels)) if merged else None

    def _apply_taps(self, x: Tensor, pads: list[tuple[int, int]]) -> Tensor:
        if self.merged:
            options = {"stride": self.stride, "padding": pads, "groups": self.groups}
            return tap_conv(x, self.weight, self.bias, offsets=self.offsets, span=self.span, **options)
        x = F.pad(x, [side for pair in reversed(pads) for side in pair])
        if not torch.compiler.is_exporting():  # sizes may be symbols, which cannot be compared
            sizes = [(n - span - 1) // s + 1 for n, span, s in zip(x.shape[2:], self.span, self.stride, strict=True)]
            if min(sizes) < 1:  # an empty chunk of a stream
                return x.new_zeros(x.shape[0], self.out_channels, *sizes)
        total = None
        for branch, start in zip(self.branches, self._starts, strict=True):
            rest = (whole - own - first for whole, own, first in zip(self.span, branch[0].span, start, strict=True))
            rows = [slice(first, -last or None) for first, last in zip(start, rest, strict=True)]
            y = branch(x[(..., *rows)])
            total = y if total is None else total + y
        return total

    def _describe(self, axis: int) -> str:
        return f"a kernel of {self.span[axis] + 1} positions"

    def extra_repr(self) -> str:
        taps = f"{len(self.offsets)} taps" + ", merged" * self.merged
        return f"{self.ndim}-D, {self.in_channels} -> {self.out_channels}, {taps}" + self._parameters_for_repr()


def fold_dilations(module: nn.Module) -> nn.Module:
    """Snaps every :class:`LearnedDilation` and merges every :class:`MergeableDilations` of a module, in place.

    Registered parts with an argument ``merged`` are then saved as merged.

    Raises:
        WavedilError: as :meth:`LearnedDilation.snap`.
    """
    for part in list(module.modules()):
        if isinstance(part, LearnedDilation):
            part.snap()
        elif isinstance(part, MergeableDilations):
            part.merge()
        elif getattr(part, "config", {}).get("merged") is False:
            part.config["merged"] = True  # the configs of the networks around the part share this dictionary
    return module
