"""Finds convolutions that torch or wavedil computes wrongly on this machine, by comparison with float64.

In some cases torch itself writes past the end of memory (see ``wavedil.ops.dilated_conv``). So the cases run in
separate processes, one for torch and one for wavedil at a time. If a process dies, that is recorded as the result of
its case, and a new process continues with the next case.
"""

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

from wavedil.bench.runner import missing_row, summary_row
from wavedil.ops.dilated_conv import dilated_conv

# Largest error relative to the norm of the exact result. The inputs of both are rounded to the dtype, so a correct
# result has only the rounding of the output: a fifth of these bounds or less. On CUDA, float32 convolutions use TF32 by
# default, which has the precision of float16.
BOUNDS = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
_CUDA_FLOAT32_BOUND = 2e-3
_CHANNELS = 24
_PARTS = ("forward", "input gradient", "weight gradient")
_MAX_CRASHES = 20


@dataclass(frozen=True)
class Case:
    """One convolution to check."""

    ndim: int
    dtype: str
    layout: str  # "contiguous" or "channels_last" (in 1-D: channels innermost)
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


def all_cases() -> list[Case]:
    """All combinations of dtype, layout, groups, kernel, dilation and stride in 1-D, 2-D and 3-D."""
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


def bench_numerics(device: str, *, cases: list[Case] | None = None) -> dict[str, Any]:
    """One row for each number of axes and dtype. The key ``wrong`` of the result lists the cases with errors.

    A row has the errors of wavedil as ``median`` and ``iqr``, and the numbers of wrong cases.
    """
    cases = all_cases() if cases is None else cases
    with ThreadPoolExecutor(2) as pool:  # the threads only wait for their processes
        torch_errors, our_errors = pool.map(lambda package: _errors(package, cases, device), ("torch", "ours"))
    wrong: list[str] = []
    rows = []
    for ndim, dtype in sorted({(case.ndim, case.dtype) for case in cases}):
        bound = bound_of(dtype, device)
        group = [i for i, case in enumerate(cases) if (case.ndim, case.dtype) == (ndim, dtype)]
        counts = {}
        for package, errors in (("torch", torch_errors), ("ours", our_errors)):
            messages = [f"{package}: {cases[i]}: {m}" for i in group if (m := _wrong(errors[i], bound))]
            wrong += messages
            counts[f"wrong_{package}"] = len(messages)
        ours = [max(e) for i in group if isinstance(e := our_errors[i], list)]
        theirs = [max(e) for i in group if isinstance(e := torch_errors[i], list)]
        name, unit = f"{ndim}-D {dtype}", "relative error"
        if ours and theirs:
            row = summary_row(name, unit, ours)
            row["ratio"] = statistics.median(theirs) / row["median"] if row["median"] else None
        else:
            row = missing_row(name, unit, "not supported here")
        rows.append(row | {"cases": len(group)} | counts)
    total, in_torch, in_ours = (sum(r[k] for r in rows) for k in ("cases", "wrong_torch", "wrong_ours"))
    summary = f"{total} cases on {device}: torch is wrong in {in_torch}, wavedil in {in_ours}"
    return {"rows": rows, "wrong": wrong, "notes": [*wrong, summary]}


def bound_of(dtype: str, device: str) -> float:
    """The largest error that counts as correct."""
    return _CUDA_FLOAT32_BOUND if dtype == "float32" and device != "cpu" else BOUNDS[dtype]


def _wrong(error: list[float] | str, bound: float) -> str | None:
    """Describes errors above the bound; None if there are none. An unsupported dtype is not an error."""
    if isinstance(error, str):
        return None if error == "unsupported" else error
    bad = [f"{part} is off by {e:.1e}" for part, e in zip(_PARTS, error, strict=True) if not e <= bound]
    return ", ".join(bad) or None


def _errors(package: str, cases: list[Case], device: str) -> list[list[float] | str]:
    """The errors of each case, computed in processes that may die."""
    results: list[list[float] | str] = []
    crashes = 0
    while len(results) < len(cases):
        rest = [asdict(case) for case in cases[len(results) :]]
        start = "from wavedil.bench.numerics import print_errors; print_errors()"
        command = [sys.executable, "-c", start, package, device, str(torch.get_num_threads())]
        done = subprocess.run(command, input=json.dumps(rest), capture_output=True, text=True)
        lines = done.stdout.splitlines()
        # The last line of a process that died can be incomplete.
        results += [json.loads(line) for line in lines if line.endswith(("]", '"'))]
        if done.returncode:
            crashes += 1
            if len(results) < len(cases):
                # An earlier case may have corrupted the memory; the process died at this one.
                results.append(f"the process died here (status {done.returncode})")
        if crashes > _MAX_CRASHES:
            results += ["not run: too many crashes before"] * (len(cases) - len(results))
    return results


def _tensors(case: Case, device: str) -> tuple[Tensor, Tensor, int]:
    """Input, weight and number of groups."""
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


def errors_of(package: str, case: Case, device: str) -> list[float] | str:
    """Relative errors of forward, input gradient and weight gradient; or ``"unsupported"``."""
    torch.manual_seed(0)
    x, weight, groups = _tensors(case, device)
    stride, dilation = (case.stride,) * case.ndim, (case.dilation,) * case.ndim
    convolve = (F.conv1d, F.conv2d, F.conv3d)[case.ndim - 1]
    exact_inputs = [t.double().requires_grad_() for t in (x, weight)]
    exact = convolve(*exact_inputs, None, stride, 0, dilation, groups)
    d = torch.randn_like(exact).to(x.dtype)
    expected = [exact, *torch.autograd.grad(exact, exact_inputs, d.double())]
    inputs = [t.requires_grad_() for t in (x, weight)]
    try:
        if package == "torch":
            y = convolve(*inputs, None, stride, 0, dilation, groups)
        else:
            padding = [(0, 0)] * case.ndim
            options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            y = dilated_conv(*inputs, **options)
        found = [y, *torch.autograd.grad(y, inputs, d)]
    except RuntimeError:
        return "unsupported"
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]


def print_errors() -> None:
    """Main function of a separate process: reads cases from standard input and prints a line of errors for each."""
    _, package, device, threads = sys.argv
    torch.set_num_threads(int(threads))
    for fields in json.load(sys.stdin):
        fields["kernel"] = tuple(fields["kernel"])
        print(json.dumps(errors_of(package, Case(**fields), device)), flush=True)
