"""Is the convolution right on this machine? Every case against float64, in torch and in ours.

Some cases write past the end of memory in torch itself (see `wavedil.ops.dilated_conv`). So the
cases run in processes of their own, one for torch and one for ours at a time; where one dies, that
is a result, and the next process goes on after it.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavedil.ops.dilated_conv import dilated_conv

# Relative to the norm of the exact result. Inputs are rounded to the dtype first, so on a right
# machine what is left is one rounding of the result: a fifth of these or less. On CUDA float32
# convolutions use TF32 unless told otherwise, which has the digits of float16.
BOUNDS = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
_CUDA_FLOAT32_BOUND = 2e-3
_CHANNELS = 24
_PARTS = ("forward", "input gradient", "weight gradient")
_MOST_CRASHES = 20


@dataclass(frozen=True)
class Case:
    ndim: int
    dtype: str
    layout: str  # "contiguous" or "channels_last" (for one axis: channels innermost)
    groups: str  # "dense", "grouped", "depthwise", "depthwise x2"
    kernel: tuple[int, ...]
    dilation: int
    stride: int

    def __str__(self) -> str:
        kernel = "x".join(map(str, self.kernel))
        return (
            f"{self.ndim}-D {self.dtype} {self.layout} {self.groups} kernel {kernel} "
            f"dilation {self.dilation} stride {self.stride}"
        )


def cases() -> list[Case]:
    kernels = {
        1: [(1,), (2,), (3,), (5,)],
        2: [(1, 1), (2, 2), (3, 3), (5, 5), (1, 3)],
        3: [(2, 2, 2), (3, 3, 3)],
    }
    return [
        Case(ndim, dtype, layout, groups, kernel, dilation, stride)
        for ndim in (1, 2, 3)
        for dtype, layout, groups, kernel, dilation, stride in itertools.product(
            BOUNDS,
            ("contiguous", "channels_last"),
            ("dense", "grouped", "depthwise", "depthwise x2"),
            kernels[ndim],
            (1, 2, 3),
            (1, 2, 3),
        )
        if dilation == 1 or math.prod(kernel) > 1
    ]


def run(device: str, *, chosen: list[Case] | None = None) -> dict[str, Any]:
    """One row for each number of axes and dtype; `wrong` lists what is not right."""
    chosen = cases() if chosen is None else chosen
    with ThreadPoolExecutor(2) as pool:  # the threads only wait for their processes
        torch_errors, our_errors = pool.map(lambda who: _errors(who, chosen, device), ("torch", "ours"))
    wrong: list[str] = []
    rows = []
    for ndim, dtype in sorted({(case.ndim, case.dtype) for case in chosen}):
        bound = bound_of(dtype, device)
        picked = [i for i, case in enumerate(chosen) if (case.ndim, case.dtype) == (ndim, dtype)]
        counts = {}
        for who, errors in (("torch", torch_errors), ("ours", our_errors)):
            messages = [m for i in picked if (m := _complaint(errors[i], bound))]
            wrong += [f"{who}: {chosen[i]}: {m}" for i in picked if (m := _complaint(errors[i], bound))]
            counts[f"wrong_{who}"] = len(messages)
        ours = [max(e) for i in picked if isinstance(e := our_errors[i], list)]
        theirs = [max(e) for i in picked if isinstance(e := torch_errors[i], list)]
        row = {"name": f"{ndim}-D {dtype}", "unit": "relative error", "cases": len(picked)} | counts
        if ours and theirs:
            median = statistics.median(ours)
            low, _, high = statistics.quantiles(ours, n=4) if len(ours) > 1 else [median] * 3
            ratio = statistics.median(theirs) / median if median else None
            row |= {"median": median, "iqr": high - low, "ratio": ratio}
        else:
            row |= {"median": None, "iqr": None, "ratio": None, "note": "not supported here"}
        rows.append(row)
    total, in_torch, in_ours = (sum(r[k] for r in rows) for k in ("cases", "wrong_torch", "wrong_ours"))
    verdict = f"{total} cases on {device}: torch is wrong in {in_torch}, wavedil in {in_ours}"
    return {"rows": rows, "wrong": wrong, "notes": [*wrong, verdict]}


def bound_of(dtype: str, device: str) -> float:
    return _CUDA_FLOAT32_BOUND if dtype == "float32" and device != "cpu" else BOUNDS[dtype]


def _complaint(error: list[float] | str, bound: float) -> str | None:
    """What is wrong with a case's errors, or None. A dtype the device lacks is not wrong."""
    if isinstance(error, str):
        return None if error == "unsupported" else error
    bad = [f"{part} is off by {e:.1e}" for part, e in zip(_PARTS, error, strict=True) if not e <= bound]
    return ", ".join(bad) or None


def _errors(who: str, chosen: list[Case], device: str) -> list[list[float] | str]:
    """Errors of each case, from processes that may die."""
    results: list[list[float] | str] = []
    crashes = 0
    while len(results) < len(chosen):
        rest = [asdict(case) for case in chosen[len(results) :]]
        start = "from wavedil.bench.numerics import child; child()"
        command = [sys.executable, "-c", start, who, device, str(torch.get_num_threads())]
        done = subprocess.run(command, input=json.dumps(rest), capture_output=True, text=True)
        lines = done.stdout.splitlines()
        # A process that dies can leave half a line.
        results += [json.loads(line) for line in lines if line.endswith(("]", '"'))]
        if done.returncode:
            crashes += 1
            if len(results) < len(chosen):
                # The memory may have been spoiled by an earlier case: this is where it showed.
                results.append(f"the process died here (status {done.returncode})")
        if crashes > _MOST_CRASHES:
            results += ["not run: too many crashes before"] * (len(chosen) - len(results))
    return results


def _tensors(case: Case, device: str) -> tuple[Tensor, Tensor, int]:
    groups = {"dense": 1, "grouped": 4, "depthwise": _CHANNELS, "depthwise x2": _CHANNELS}[case.groups]
    out = 2 * _CHANNELS if case.groups.endswith("x2") else _CHANNELS
    space = {1: (47,), 2: (23, 40), 3: (8, 9, 10)}[case.ndim]
    x = torch.randn(2, _CHANNELS, *space)
    weight = torch.randn(out, _CHANNELS // groups, *case.kernel)
    tensors = [t.to(device, getattr(torch, case.dtype)) for t in (x, weight)]
    if case.layout == "channels_last":
        if case.ndim == 1:
            tensors[0] = tensors[0].transpose(1, 2).contiguous().transpose(1, 2)
        else:
            layout = torch.channels_last if case.ndim == 2 else torch.channels_last_3d
            tensors = [t.contiguous(memory_format=layout) for t in tensors]
    return tensors[0], tensors[1], groups


def errors_of(who: str, case: Case, device: str) -> list[float] | str:
    """Relative errors of forward, input gradient and weight gradient, or "unsupported"."""
    torch.manual_seed(0)
    x, weight, groups = _tensors(case, device)
    stride, dilation = (case.stride,) * case.ndim, (case.dilation,) * case.ndim
    convolve = (F.conv1d, F.conv2d, F.conv3d)[case.ndim - 1]
    wide = [t.double().requires_grad_() for t in (x, weight)]
    exact = convolve(*wide, None, stride, 0, dilation, groups)
    d = torch.randn_like(exact).to(x.dtype)
    expected = [exact, *torch.autograd.grad(exact, wide, d.double())]
    inputs = [t.requires_grad_() for t in (x, weight)]
    try:
        if who == "torch":
            y = convolve(*inputs, None, stride, 0, dilation, groups)
        else:
            padding = [(0, 0)] * case.ndim
            options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            y = dilated_conv(*inputs, **options)
        found = [y, *torch.autograd.grad(y, inputs, d)]
    except RuntimeError:
        return "unsupported"
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]


def child() -> None:
    """In the process of its own: cases on standard input, a line of errors for each on output."""
    _, who, device, threads = sys.argv
    torch.set_num_threads(int(threads))
    for fields in json.load(sys.stdin):
        fields["kernel"] = tuple(fields["kernel"])
        print(json.dumps(errors_of(who, Case(**fields), device)), flush=True)
