"""The torch engine: the definition of sampling from a plan. Any device, any distribution; one step at a time.

It computes in float64. In float32 the rounding of a matrix product depends on the number of rows, so a uniform that
falls close to the edge of a code would pick another one in another batch, and the stream would go its own way from
there. In float64 such a uniform would have to fall some 1e9 times closer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavedil.audio.generation.engines.session import Session
from wavedil.audio.generation.plan import AmplitudeEmbeddingPlan, CodeEmbeddingPlan
from wavedil.core.stream import State


class _Ring:
    """The last ``span`` inputs of a layer, written in place: a step costs the same whatever the dilation."""

    def __init__(self, history: Tensor):
        # (span, batch, channels), oldest first at time 0. A copy: the caller's state is not written to.
        self.slots = history.double().permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
        self.time = 0

    def back(self, steps: int) -> Tensor:
        """The input so many steps before the one that comes next."""
        return self.slots[(self.time - steps) % len(self.slots)]

    def push(self, x: Tensor) -> None:
        if len(self.slots):
            self.slots[self.time % len(self.slots)] = x
            self.time += 1

    def history(self) -> Tensor:
        oldest = self.time % len(self.slots) if len(self.slots) else 0
        return self.slots.roll(-oldest, 0).permute(1, 2, 0).contiguous()


class TorchSession(Session):
    """Sampling step by step in plain torch."""

    supports_guidance = True

    def _open(self, state: State) -> None:
        # What a step multiplies, oldest tap first, as (inputs, outputs).
        plan = self.plan = self.plan.mapped(lambda t: t.double())
        self.weights = [layer.weight.permute(0, 2, 1).flatten(0, 1).contiguous() for layer in plan.layers]
        self.residuals = [None if layer.residual is None else layer.residual.T.contiguous() for layer in plan.layers]
        self.skip, self.head = plan.skip_weight.T.contiguous(), [(w.T.contiguous(), b) for w, b in plan.head]
        self.lookup = _lookup(plan.input_embedding)
        self.rings = [_Ring(state[f"stack.layers.{i}.conv.history"]) for i in range(len(plan.layers))]
        self.recent = [*state["input_embedding.history"].unbind(1), state["previous"][:, 0]]
        if plan.condition_channels or plan.speaker_channels:
            self.conditions = [layer.condition.T.contiguous() for layer in plan.layers]

    @torch.no_grad()
    def _run(self, uniforms: Tensor | None, condition: Tensor | None, forced: Tensor | None) -> Tensor:
        steps = (uniforms if forced is None else forced).shape[1]
        parameters, codes = [], []
        for t in range(steps):
            y = self._step(None if condition is None else condition[..., t])
            if forced is None:
                code = self.plan.distribution.sample(self._decided(y), uniforms[:, t], self.sampling)
                codes.append(code)
            else:
                code = forced[:, t]
                parameters.append(self._decided(y))
            self.recent = [*self.recent[1:], code.repeat(len(y) // len(code))]
        return torch.stack(codes, 1) if forced is None else torch.stack(parameters, 2)

    def _decided(self, y: Tensor) -> Tensor:
        """The parameters that samples are drawn by, from those of all rows."""
        if self.guidance == 1:
            return y
        with_it, without = y.chunk(2)
        return without + self.guidance * (with_it - without)

    def _step(self, features: Tensor | None) -> Tensor:
        """Parameters ``(batch, parameters)`` of the next sample's distribution."""
        plan, hidden = self.plan, self.plan.hidden
        x = self.lookup(self.recent)
        given = [part for part in (features, self.speaker) if part is not None]
        given = torch.cat(given, 1).double() if given else None
        gates = torch.empty(len(x), hidden * len(plan.layers), device=plan.device, dtype=torch.float64)
        for index, (layer, ring) in enumerate(zip(plan.layers, self.rings, strict=True)):
            k = len(layer.weight)
            inputs = torch.cat([*(ring.back((k - 1 - j) * layer.dilation) for j in range(k - 1)), x], dim=1)
            h = torch.addmm(layer.bias, inputs, self.weights[index])
            if given is not None:
                h = torch.addmm(h, given, self.conditions[index])
            ring.push(x)
            z = gates[:, index * hidden : (index + 1) * hidden]
            torch.mul(h[:, :hidden].tanh_(), h[:, hidden:].sigmoid_(), out=z)
            if layer.residual is not None:
                x = torch.addmm(layer.residual_bias, z, self.residuals[index]).add_(x)
            if plan.residual_scale != 1:
                x = x * plan.residual_scale
        y = torch.addmm(plan.skip_bias, gates, self.skip)
        for weight, bias in self.head:
            y = torch.addmm(bias, y.relu_(), weight)
        return y

    def _state(self) -> State:
        after = {f"stack.layers.{i}.conv.history": ring.history() for i, ring in enumerate(self.rings)}
        front = torch.stack(self.recent[:-1], 1) if len(self.recent) > 1 else self.recent[-1][:, None][:, :0]
        return {"previous": self.recent[-1].unsqueeze(1).clone(), "input_embedding.history": front.clone(), **after}


def _lookup(front: CodeEmbeddingPlan | AmplitudeEmbeddingPlan):
    """Recent codes, oldest first, each ``(batch,)``, to the stack's input ``(batch, channels)``."""
    if isinstance(front, CodeEmbeddingPlan):
        tables = torch.nn.functional.pad(front.tables, (0, 0, 0, 1))  # the row of "no code yet" adds nothing
        return lambda recent: sum(table[code] for table, code in zip(tables, recent, strict=True))
    levels = torch.nn.functional.pad(front.levels, (0, 1))
    return lambda recent: (
        front.bias + sum(weight * levels[code].unsqueeze(1) for weight, code in zip(front.weight, recent, strict=True))
    )
