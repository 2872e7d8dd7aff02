"""The torch engine: the definition of sampling from a plan. Any device, any distribution; one step at a time.

It computes in float64. In float32 the rounding of a matrix product depends on the number of rows, so a uniform that
falls close to the edge of a code would pick another one in another batch, and the stream would go its own way from
there. In float64 such a uniform would have to fall some 1e9 times closer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavedil.audio.distributions import Sampling
from wavedil.audio.plan import Plan
from wavedil.core.stream import State


class _Ring:
    """The last ``span`` inputs of a layer, written in place: a step costs the same whatever the dilation."""

    def __init__(self, history: Tensor):
        # (span, batch, channels), oldest first at time 0. A copy: the caller's state is not written to.
        self.slots = history.double().permute(2, 0, 1).clone(memory_format=torch.contiguous_format)

    def at(self, t: int, back: int) -> Tensor:
        return self.slots[(t - back) % len(self.slots)]

    def push(self, t: int, x: Tensor) -> None:
        if len(self.slots):
            self.slots[t % len(self.slots)] = x

    def history(self, t: int) -> Tensor:
        span = len(self.slots)
        return self.slots.roll(-(t % span) if span else 0, 0).permute(1, 2, 0).contiguous()


@torch.no_grad()
def run_torch(plan: Plan, state: State, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, State]:
    """``(batch, time)`` float64 uniforms to ``(batch, time)`` codes, and the state after them.

    ``state`` is the model's streaming state (``WaveNet.start`` or ``step``); it is not changed. The histories of the
    state that comes back are float64.
    """
    plan = plan.double()
    batch, time = uniforms.shape
    taps = len(plan.tables)
    rings = [_Ring(state[f"stack.layers.{i}.conv.history"]) for i in range(len(plan.layers))]
    # What a step multiplies, oldest tap first, as (inputs, outputs).
    weights = [layer.weight.permute(0, 2, 1).flatten(0, 1).contiguous() for layer in plan.layers]
    residuals = [None if layer.residual is None else layer.residual.T.contiguous() for layer in plan.layers]
    hidden = weights[0].shape[1] // 2
    gates = torch.empty(batch, hidden * len(plan.layers), device=uniforms.device, dtype=plan.skip_bias.dtype)
    skip_weight, head = plan.skip_weight.T.contiguous(), [(w.T.contiguous(), b) for w, b in plan.head]
    tables = torch.nn.functional.pad(plan.tables, (0, 0, 0, 1))  # the row of "no code yet" adds nothing
    recent = [*state["front.history"].unbind(1), state["previous"][:, 0]]
    codes = torch.empty(batch, time, dtype=torch.int64, device=uniforms.device)
    for t in range(time):
        x = tables[-1][recent[-1]]
        for tap in range(taps - 1):
            x = x + tables[tap][recent[tap]]
        for index, (layer, ring) in enumerate(zip(plan.layers, rings, strict=True)):
            k = len(layer.weight)
            inputs = torch.cat([*(ring.at(t, (k - 1 - j) * layer.dilation) for j in range(k - 1)), x], dim=1)
            h = torch.addmm(layer.bias, inputs, weights[index])
            ring.push(t, x)
            z = gates[:, index * hidden : (index + 1) * hidden]
            torch.mul(h[:, :hidden].tanh_(), h[:, hidden:].sigmoid_(), out=z)
            if layer.residual is not None:
                x = torch.addmm(layer.residual_bias, z, residuals[index]).add_(x)
            if plan.residual_scale != 1:
                x = x * plan.residual_scale
        y = torch.addmm(plan.skip_bias, gates, skip_weight)
        for weight, bias in head:
            y = torch.addmm(bias, y.relu_(), weight)
        code = plan.distribution.sample(y, uniforms[:, t], sampling)
        codes[:, t] = code
        recent = [*recent[1:], code]
    after = {f"stack.layers.{i}.conv.history": ring.history(time) for i, ring in enumerate(rings)}
    after["front.history"] = torch.stack(recent[:-1], 1) if taps > 1 else state["front.history"].clone()
    after["previous"] = recent[-1].unsqueeze(1).clone()
    return codes, after


#: name -> (plan, state, uniforms, sampling) -> (codes, state)
ENGINES = {"torch": run_torch}
